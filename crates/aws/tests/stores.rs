//! The stores against the embedded DynamoDB engine.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws::{
    clients::Clients,
    connections::ConnectionError,
    control::posts::Pending,
    log::{AppendError, Fence, LoggedPost},
    reader::ShardReader,
    tables::Tables,
};
use aws_sdk_dynamodb::{
    Client,
    types::{AttributeValue, TimeToLiveSpecification, TimeToLiveStatus},
};
use bytes::Bytes;
use domain::{
    access::Principal,
    clock::Clock,
    connection::{Connection, ConnectionId, Recipient, Subscription},
    entry::Entry,
    frame::Frame,
    provenance::Provenance,
    topic::Topic,
};
use dynamo::{Engine, Faults, Storage};
use jiff::{Timestamp, ToSpan as _};
use serde_json::{Value, json};

async fn tables() -> Tables {
    let engine = Engine::open(None).expect("a database");
    let client = tables_of(&engine);
    client.create_missing().await.expect("tables");
    client
}

fn tables_of(engine: &Engine) -> Tables {
    tables_at(engine, now())
}

/// The tables, whose changes all have the time `at`.
fn tables_at(engine: &Engine, at: Timestamp) -> Tables {
    let options = aws::clients::TableOptions {
        table_prefix: "test-".to_owned(),
        retention: Duration::from_hours(1),
    };
    let clock = Clock::new(move || at);
    Clients::from_config(engine.sdk_config()).tables_with_clock(&options, clock)
}

fn now() -> Timestamp {
    "2026-11-22T10:00:00Z".parse().expect("a time")
}

fn topic(text: &str) -> Topic {
    Topic::parse(text).expect("a topic")
}

fn frame(topic: &Topic, seq: u64, events: &[&str]) -> Entry {
    Entry::Frame(Frame::new(topic.clone(), seq, now(), events))
}

#[tokio::test]
async fn the_log_keeps_order_and_fences_off_a_second_writer() {
    let log = tables().await.log;
    let t = topic("coinbase/matches/BTC-USD");
    assert_eq!(log.newest(&t).await.unwrap(), None);
    let first = frame(&t, 1, &["1", "2", "3"]);
    log.append(&first, None, now()).await.unwrap();
    log.append(&first, None, now()).await.expect("a repeated append is fine");
    let taken = log.append(&frame(&t, 1, &["9"]), None, now()).await;
    assert!(matches!(taken, Err(AppendError::Taken { seq: 1, .. })), "{taken:?}");
    log.append(&Entry::Lost { topic: t.clone(), seq: 4, last: 6, is_logged: false }, None, now())
        .await
        .unwrap();
    log.append(&frame(&t, 7, &["7", "8"]), Some(7), now()).await.unwrap();

    let newest = log.newest(&t).await.unwrap().unwrap();
    assert_eq!((newest.entry.last(), newest.snapshot), (8, Some(7)));
    for (from, to, expected) in [
        (1, 8, vec![(1, 3), (4, 6), (7, 8)]),
        (2, 2, vec![(1, 3)]),
        (3, 4, vec![(1, 3), (4, 6)]),
        (8, 99, vec![(7, 8)]),
        (9, 99, vec![]),
    ] {
        let read = log.read(&t, from, to, usize::MAX, now()).await.unwrap();
        let read: Vec<_> = read.iter().map(|e| (e.seq(), e.last())).collect();
        assert_eq!(read, expected, "case: {from}..={to}");
    }
    let later = now() + 2.hours();
    assert_eq!(log.read(&t, 1, 8, usize::MAX, later).await.unwrap(), [], "all has expired");
    assert_eq!(log.oldest(&t, now()).await.unwrap(), Some(1));
    assert_eq!(log.oldest(&t, later).await.unwrap(), None);
}

#[tokio::test]
async fn an_append_is_recognized_as_repeated_even_after_an_edit() {
    let log = tables().await.log;
    let t = topic("mastodon/public");
    let first = frame(&t, 1, &[r#"{"type":"post","id":"a"}"#]);
    log.append_in(Some(1), &first, None, now()).await.unwrap();
    let edited = Bytes::from_static(br#"{"type":"post.edited","id":"a"}"#);
    assert!(log.supersede(&t, 1, "a", &edited).await.unwrap());
    log.append_in(Some(1), &first, None, now()).await.expect("it is the same append");
    let other = log.append_in(Some(1), &first, None, now() + 1.milliseconds()).await;
    assert!(matches!(other, Err(AppendError::Taken { seq: 1, .. })), "{other:?}");
}

#[tokio::test]
async fn a_fence_keeps_out_earlier_leaders_and_no_reader_sees_it() {
    let log = tables().await.log;
    let t = topic("coinbase/matches/BTC-USD");
    assert_eq!(log.fence(&t, 1, 1, now()).await.unwrap(), Fence::Stands);
    assert_eq!(log.newest(&t).await.unwrap(), None);
    assert_eq!(log.oldest(&t, now()).await.unwrap(), None);
    assert_eq!(log.read(&t, 1, 9, usize::MAX, now()).await.unwrap(), []);
    log.append_in(Some(1), &frame(&t, 1, &["1", "2"]), None, now()).await.unwrap();

    assert_eq!(log.fence(&t, 1, 2, now()).await.unwrap(), Fence::Taken);
    assert_eq!(log.fence(&t, 3, 2, now()).await.unwrap(), Fence::Stands);
    assert_eq!(
        log.fence(&t, 3, 2, now()).await.unwrap(),
        Fence::Stands,
        "a repeated fence is fine"
    );
    assert_eq!(log.fence(&t, 3, 1, now()).await.unwrap(), Fence::Outranked);
    let stale = log.append_in(Some(1), &frame(&t, 3, &["x"]), None, now()).await;
    assert!(matches!(stale, Err(AppendError::Fenced { seq: 3, .. })), "{stale:?}");
    let newest = log.newest(&t).await.unwrap().map(|newest| newest.entry.last());
    assert_eq!(newest, Some(2));
    log.append_in(Some(2), &frame(&t, 3, &["3"]), None, now()).await.unwrap();

    // A fence that nobody has replaced.
    log.fence(&t, 4, 3, now()).await.unwrap();
    log.append_in(Some(3), &frame(&t, 9, &["9"]), None, now()).await.unwrap();
    let read = log.read(&t, 1, 99, usize::MAX, now()).await.unwrap();
    let read: Vec<_> = read.iter().map(|entry| (entry.seq(), entry.last())).collect();
    assert_eq!(read, [(1, 2), (3, 3), (9, 9)]);
    assert_eq!(log.read(&t, 4, 4, usize::MAX, now()).await.unwrap(), []);
}

#[tokio::test]
async fn a_post_in_the_log_can_be_superseded() {
    let log = tables().await.log;
    let t = topic("mastodon/public");
    let [post, other] = ["a", "b"].map(|id| format!(r#"{{"type":"post","id":"{id}"}}"#));
    log.append(&frame(&t, 1, &["1", &post, "[]", &other]), None, now()).await.unwrap();
    let edited = Bytes::from_static(br#"{"type":"post.edited","id":"a"}"#);
    let deleted = Bytes::from_static(br#"{"type":"post.deleted","id":"a"}"#);
    for (event, replaced) in [(&edited, &edited), (&deleted, &deleted), (&edited, &deleted)] {
        assert!(log.supersede(&t, 2, "a", event).await.unwrap());
        let replaced = std::str::from_utf8(replaced).unwrap();
        let read = log.read(&t, 1, 1, usize::MAX, now()).await.unwrap();
        assert_eq!(read, [frame(&t, 1, &["1", replaced, "[]", &other])]);
    }
    assert_eq!(log.post(&t, 2, "a").await.unwrap(), Some(LoggedPost::Deleted));
    assert_eq!(log.post(&t, 4, "b").await.unwrap(), Some(LoggedPost::Present));
    // A place can be wrong.
    for seq in [1, 3, 4, 5] {
        assert!(!log.supersede(&t, seq, "a", &deleted).await.unwrap(), "case: {seq}");
        assert_eq!(log.post(&t, seq, "a").await.unwrap(), None, "case: {seq}");
    }
}

#[tokio::test]
async fn what_is_read_at_once_is_bounded_by_its_size_in_memory() {
    let log = tables().await.log;
    let t = topic("mastodon/public");
    // It compresses to almost nothing.
    let event = format!("\"{}\"", "x".repeat(100_000));
    for seq in 1..=50 {
        log.append(&frame(&t, seq, &[&event]), None, now()).await.unwrap();
    }
    let mut next = 1;
    while next <= 50 {
        let entries = log.read(&t, next, 50, 512 * 1024, now()).await.unwrap();
        assert_eq!(entries.first().map(Entry::seq), Some(next));
        assert!(entries.len() <= 6, "{} entries of 100 KB", entries.len());
        next = entries.last().unwrap().last() + 1;
    }
}

/// Another version of the compressor makes other bytes of the same frame.
#[tokio::test]
async fn a_post_is_superseded_whatever_compressed_its_frame() {
    let storage = Storage::open(None).unwrap();
    let tables = tables_of(&Engine::inline(storage.clone()));
    tables.create_missing().await.unwrap();
    let t = topic("mastodon/public");
    let post = frame(&t, 1, &[r#"{"type":"post","id":"a","text":"a text, a text, a text"}"#]);
    tables.log.append(&post, None, now()).await.unwrap();
    let Entry::Frame(post) = post else { unreachable!() };
    let body = zstd::bulk::compress(post.json(), 19).unwrap();
    let body = aws_smithy_types::base64::encode(body);
    let update = serde_json::json!({
        "TableName": "test-events",
        "Key": {"topic": {"S": t.as_str()}, "seq": {"N": "1"}},
        "UpdateExpression": "SET body = :body",
        "ExpressionAttributeValues": {":body": {"B": body}},
    });
    let (status, response) = storage.call("UpdateItem", update.to_string().as_bytes());
    assert_eq!(status, 200, "{response}");
    let deleted = r#"{"type":"post.deleted","id":"a"}"#;
    let event = Bytes::from_static(deleted.as_bytes());
    assert!(tables.log.supersede(&t, 1, "a", &event).await.unwrap());
    let read = tables.log.read(&t, 1, 1, usize::MAX, now()).await.unwrap();
    assert_eq!(read, [frame(&t, 1, &[deleted])]);
}

#[tokio::test]
async fn a_head_only_moves_for_the_newest_writer() {
    let tables = tables().await;
    let (control, t) = (&tables.control, topic("coinbase/matches/BTC-USD"));
    assert_eq!(tables.head(&t, now()).await.unwrap(), 0);
    for (epoch, version, seq, expected) in
        [(1, 1, 1_000, 1_000), (1, 3, 7, 7), (1, 2, 2_000, 7), (2, 1, 500, 500), (1, 9, 9, 500)]
    {
        let is_set = control.reserve_in(epoch, version, &t, seq).await.unwrap();
        assert_eq!(is_set, seq == expected, "case: {epoch} {version}");
        assert_eq!(control.reservation(&t).await.unwrap().map(|it| it.last), Some(expected));
    }
    assert_eq!(tables.head(&t, now()).await.unwrap(), 500, "the log is empty");
    tables.log.append(&frame(&t, 12, &["1"]), None, now()).await.unwrap();
    assert_eq!(tables.head(&t, now()).await.unwrap(), 12);
    assert_eq!(tables.head(&t, now() + 2.hours()).await.unwrap(), 500, "the entry has expired");
}

#[tokio::test]
async fn pending_changes_are_listed_by_family_and_a_delete_prevails() {
    let control = tables().await.control;
    let pending = |uri: &str, deletes, event: &str| Pending {
        topic: topic("mastodon/public"),
        uri: uri.to_owned(),
        deletes,
        event: event.to_owned(),
    };
    let long = format!("https://a.example/{}", "x".repeat(2_000));
    let first = pending(&long, false, "1");
    let second = pending(&long, false, "2");
    let delete = pending(&long, true, "3");
    let later = now() + 1.hours();
    control.put_pending(&first, later).await.unwrap();
    control.put_pending(&second, later).await.unwrap();
    control.remove_pending(&first).await.expect("it was replaced");
    assert_eq!(control.pending("mastodon").await.unwrap(), [second]);
    assert_eq!(control.pending("coinbase").await.unwrap(), []);
    control.put_pending(&delete, later).await.unwrap();
    control.put_pending(&first, later).await.unwrap();
    assert_eq!(control.pending("mastodon").await.unwrap(), std::slice::from_ref(&delete));
    control.remove_pending(&delete).await.unwrap();
    assert_eq!(control.pending("mastodon").await.unwrap(), []);
}

#[tokio::test]
async fn connections_subscribe_go_live_and_leave() {
    let connections = tables().await.connections;
    let id = ConnectionId::new("abc=");
    let recipient = Recipient { endpoint: "http://gateway".into(), id: id.clone() };
    let a = topic("coinbase/ticker/BTC-USD");
    let b = topic("mastodon/public");
    let both = BTreeMap::from([(a.clone(), 41), (b.clone(), 7)]);

    let early = connections.join(0, &id, &both, 50).await;
    assert!(matches!(early, Err(ConnectionError::NotOpen(_))), "{early:?}");
    let open = Connection::open(recipient, 0, Principal::anonymous(), now());
    connections.open(&open).await.unwrap();
    let mut reader = ShardReader::new(connections.clone(), 0);
    assert_eq!(reader.refresh(now()).await.unwrap(), [open]);

    let joined = connections.join(0, &id, &both, 2).await.unwrap();
    assert_eq!(joined, BTreeSet::from([a.clone(), b.clone()]));
    let again = connections.join(0, &id, &both, 2).await.unwrap();
    assert_eq!(again, BTreeSet::new(), "a connection at its limit can repeat a subscribe");
    let third = BTreeMap::from([(topic("system/sources"), 0)]);
    let full = connections.join(0, &id, &third, 2).await;
    assert!(matches!(full, Err(ConnectionError::TooManyTopics { has: 2, limit: 2 })), "{full:?}");

    connections.go_live(0, &id, &BTreeMap::from([(a.clone(), 43)])).await.unwrap();
    let changed = reader.refresh(now()).await.unwrap();
    assert_eq!(changed.len(), 1);
    assert_eq!(changed[0].topics[&a], Subscription::Live { cursor: 43, since: now() });
    assert_eq!(changed[0].topics[&b], Subscription::Joining { cursor: 7, since: now() });
    assert_eq!(reader.refresh(now()).await.unwrap(), [], "a change is reported once");

    let left = connections.leave(0, &id, &BTreeSet::from([a.clone()])).await.unwrap();
    assert!(left.keys().eq([&a]), "{left:?}");
    let left = connections.leave(0, &id, &BTreeSet::from([a])).await.unwrap();
    assert_eq!(left, BTreeMap::new());
    connections.close(0, &id).await.unwrap();
    connections.close(0, &id).await.expect("closing twice is fine");
    assert_eq!(connections.get(0, &id).await.unwrap(), None);
    assert!(reader.refresh(now()).await.unwrap()[0].gone);
    let late = connections.join(0, &id, &both, 50).await;
    assert!(matches!(late, Err(ConnectionError::NotOpen(_))), "{late:?}");
}

#[tokio::test]
async fn only_a_subscription_that_does_not_go_on_is_finished() {
    let engine = Engine::open(None).expect("a database");
    let at = |seconds: i64| tables_at(&engine, now() + seconds.seconds()).connections;
    tables_of(&engine).create_missing().await.expect("tables");
    let id = ConnectionId::new("abc=");
    let recipient = Recipient { endpoint: "http://gateway".into(), id: id.clone() };
    at(0).open(&Connection::open(recipient, 0, Principal::anonymous(), now())).await.unwrap();
    let [a, b] = [topic("coinbase/ticker/BTC-USD"), topic("mastodon/public")];
    let both = BTreeMap::from([(a.clone(), 41), (b.clone(), 7)]);
    at(0).join(0, &id, &both, 50).await.unwrap();
    let names = BTreeSet::from([a.clone(), b.clone()]);
    at(2).keep_joining(0, &id, &names).await.unwrap();
    at(8).finish_joining(0, &id, &both, now()).await.expect("it does nothing");
    let joining =
        |cursor, seconds: i64| Subscription::Joining { cursor, since: now() + seconds.seconds() };
    let topics = at(8).get(0, &id).await.unwrap().expect("open").topics;
    assert_eq!(topics, BTreeMap::from([(a.clone(), joining(41, 2)), (b.clone(), joining(7, 2))]));

    let one = BTreeMap::from([(a.clone(), 41)]);
    at(9).finish_joining(0, &id, &one, now() + 2.seconds()).await.unwrap();
    at(10).finish_joining(0, &id, &both, now() + 2.seconds()).await.expect("one is live");
    let live = Subscription::Live { cursor: 41, since: now() + 9.seconds() };
    let topics = at(10).get(0, &id).await.unwrap().expect("open").topics;
    assert_eq!(topics, BTreeMap::from([(a.clone(), live), (b.clone(), joining(7, 2))]));
    at(11).keep_joining(0, &id, &names).await.unwrap();
    let topics = at(11).get(0, &id).await.unwrap().expect("open").topics;
    assert_eq!(topics, BTreeMap::from([(a, live), (b.clone(), joining(7, 11))]));
    at(11).close(0, &id).await.unwrap();
    let other = BTreeMap::from([(b, 7)]);
    at(12).finish_joining(0, &id, &other, now() + 11.seconds()).await.expect("it has closed");
}

/// The clocks of the writers differ, and the index shows a change some time after it was made.
#[tokio::test]
async fn a_change_that_the_index_shows_late_is_found_by_a_wider_sweep() {
    let connections = tables().await.connections;
    let opened = |id: &str, seconds: i64| {
        let recipient = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new(id) };
        Connection::open(recipient, 0, Principal::anonymous(), now() - seconds.seconds())
    };
    let mut reader = ShardReader::new(connections.clone(), 0);
    assert_eq!(reader.refresh(now()).await.unwrap(), []);
    let late = opened("late=", 14);
    let later = opened("later=", 60);
    connections.open(&late).await.unwrap();
    connections.open(&later).await.unwrap();
    for (after, expected) in [(1, vec![]), (2, vec![late]), (29, vec![]), (30, vec![later])] {
        let found = reader.refresh(now() + after.seconds()).await.unwrap();
        assert_eq!(found, expected, "case: after {after} s");
    }
}

#[tokio::test]
async fn a_lease_has_one_owner_until_it_expires() {
    let control = tables().await.control;
    let term = Duration::from_secs(10);
    let a = control.acquire("coinbase", "a", term, now()).await.unwrap().unwrap();
    assert_eq!(a.epoch, 1);
    assert_eq!(control.acquire("coinbase", "b", term, now()).await.unwrap(), None);
    assert!(control.renew(&a, term, now() + 9.seconds()).await.unwrap());
    assert_eq!(control.acquire("coinbase", "b", term, now() + 18.seconds()).await.unwrap(), None);
    let b = control.acquire("coinbase", "b", term, now() + 19.seconds()).await.unwrap().unwrap();
    assert_eq!(b.epoch, 2);
    assert!(control.holds(&b).await.unwrap() && !control.holds(&a).await.unwrap());
    let leaders = async |at| control.leaders(at).await.unwrap().into_iter().collect::<Vec<_>>();
    assert_eq!(leaders(now() + 28.seconds()).await, [("coinbase".into(), "b".into())]);
    assert_eq!(leaders(now() + 29.seconds()).await, [], "it has expired");
    assert!(!control.renew(&a, term, now() + 20.seconds()).await.unwrap());
    assert!(control.release(&b).await.unwrap());
    assert_eq!(leaders(now() + 28.seconds()).await, [], "it was released");
    let c = control.acquire("coinbase", "c", term, now()).await.unwrap().unwrap();
    control.clear_leases().await.unwrap();
    assert!(!control.renew(&c, term, now()).await.unwrap());
}

#[tokio::test]
async fn control_returns_what_was_stored() {
    let control = tables().await.control;
    let t = topic("mastodon/public");
    assert_eq!(
        control.claim_provenance(Provenance::Simulated).await.unwrap(),
        Provenance::Simulated
    );
    assert_eq!(control.claim_provenance(Provenance::Live).await.unwrap(), Provenance::Simulated);
    assert_eq!(control.reservation(&t).await.unwrap().map(|it| it.last), None);
    for (seq, expected) in [(7, 7), (3, 7), (9, 9)] {
        control.reserve(&t, seq).await.unwrap();
        assert_eq!(control.reservation(&t).await.unwrap().map(|it| it.last), Some(expected));
    }
    for place in [5, 3, 5] {
        control.place("https://a.example/1", &t, place, now()).await.unwrap();
    }
    assert_eq!(control.places("https://a.example/1", &t).await.unwrap(), [3, 5].into());
    assert!(control.places("https://a.example/2", &t).await.unwrap().is_empty());
}

#[tokio::test]
async fn the_end_of_a_topic_is_found_while_another_process_appends_its_first_entry() {
    let storage = Storage::open(None).unwrap();
    let tables = tables_of(&Engine::inline(storage.clone()));
    tables.create_missing().await.unwrap();
    let t = topic("system/sources");
    let on = storage.clone();
    let call = move |operation: &str, request: Value| -> Value {
        let (status, response) = on.call(operation, request.to_string().as_bytes());
        assert_eq!(status, 200, "{response}");
        serde_json::from_str(&response).unwrap()
    };
    let key = json!({"topic": {"S": t}, "seq": {"N": "1"}});
    tables.log.append(&frame(&t, 1, &["1", "2"]), None, now()).await.unwrap();
    let item = call("GetItem", json!({"TableName": "test-events", "Key": key}))["Item"].clone();
    call("DeleteItem", json!({"TableName": "test-events", "Key": key}));
    tables.control.reserve(&t, 3).await.unwrap();

    // The entry appears between the reads of the log and of the reservation.
    let faults = Faults::default();
    let put = call.clone();
    faults.set(move |operation, request| {
        let request: Value = serde_json::from_slice(request).unwrap();
        if operation == "GetItem" && request["Key"]["pk"]["S"] == "head" {
            put("PutItem", json!({"TableName": "test-events", "Item": item}));
        }
        None
    });
    let other = tables_of(&Engine::inline(storage).with_faults(faults));
    assert_eq!(other.head(&t, now()).await.unwrap(), 2);
}

#[tokio::test]
async fn the_expiry_of_a_table_is_set_even_if_the_process_was_killed_before() {
    let engine = Engine::open(None).unwrap();
    let client = Client::new(&engine.sdk_config());
    let tables = tables_of(&engine);
    tables.create_missing().await.unwrap();
    let off = TimeToLiveSpecification::builder().enabled(false).attribute_name("expires_at");
    let update = client.update_time_to_live().table_name("test-events");
    update.time_to_live_specification(off.build().unwrap()).send().await.unwrap();
    tables.create_missing().await.unwrap();
    let described = client.describe_time_to_live().table_name("test-events").send().await.unwrap();
    let status = described.time_to_live_description().unwrap().time_to_live_status();
    assert_eq!(status, Some(&TimeToLiveStatus::Enabled));
}

#[tokio::test]
async fn the_largest_number_of_shards_counts_until_its_note_expires() {
    let control = tables().await.control;
    let now = Timestamp::UNIX_EPOCH;
    let later = |hours| now + Duration::from_hours(hours);
    assert_eq!(control.shards(now).await.unwrap(), 0);
    control.put_shards(16, now).await.unwrap();
    control.put_shards(4, later(24)).await.unwrap();
    for (hours, expected) in [(47, 16), (49, 4), (73, 0)] {
        assert_eq!(control.shards(later(hours)).await.unwrap(), expected, "case: {hours} h");
    }
    control.put_shards(16, later(49)).await.unwrap();
    assert_eq!(control.shards(later(50)).await.unwrap(), 16);
}

#[tokio::test]
async fn a_log_has_one_id_whoever_makes_it() {
    let engine = Engine::open(None).unwrap();
    let tables = tables_of(&engine);
    tables.create_missing().await.unwrap();
    let control = &tables.control;
    let first = control.log_id().await.unwrap();
    assert!(first.is_some(), "the id is made with the tables");
    assert_eq!(Some(control.claim_log_id().await.unwrap()), first);
    assert_ne!(self::tables().await.control.log_id().await.unwrap(), first, "ids are random");

    // CloudFormation makes the tables without an id. Then several programs make it at the same time.
    delete_control(&engine, "log", "id").await;
    assert_eq!(control.log_id().await.unwrap(), None);
    let claims = (0..8).map(|_| control.claim_log_id());
    let claimed = futures_util::future::try_join_all(claims).await.unwrap();
    assert_eq!(control.log_id().await.unwrap().as_ref(), claimed.first());
    assert!(claimed.iter().all(|id| *id == claimed[0]), "{claimed:?}");
}

/// Deletes an item of `control`.
async fn delete_control(engine: &Engine, pk: &str, sk: &str) {
    let client = aws_sdk_dynamodb::Client::new(&engine.sdk_config());
    let key = [("pk", pk), ("sk", sk)]
        .map(|(name, value)| (name.to_owned(), AttributeValue::S(value.to_owned())));
    client.delete_item().table_name("test-control").set_key(Some(key.into())).send().await.unwrap();
}

#[tokio::test]
async fn only_one_process_can_open_the_data_folder_and_the_data_survives_it() {
    let folder = tempfile::tempdir().unwrap();
    let t = topic("mastodon/public");
    {
        let engine = Engine::open(Some(folder.path())).unwrap();
        let again = Engine::open(Some(folder.path())).expect_err("it is in use");
        assert!(again.to_string().contains("in use"), "{again}");
        let tables = tables_of(&engine);
        tables.create_missing().await.unwrap();
        tables.create_missing().await.expect("existing tables are fine");
        tables.log.append(&frame(&t, 1, &["1"]), None, now()).await.unwrap();
    }
    // The thread ends, and frees the folder, a moment after the last handle.
    let engine = loop {
        match Engine::open(Some(folder.path())) {
            Ok(engine) => break engine,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    let tables = tables_of(&engine);
    assert!(tables.log.newest(&t).await.unwrap().is_some());
}

#[tokio::test]
async fn only_a_fence_of_the_leader_that_reserved_numbers_says_that_they_are_unused() {
    for (epoch, expected) in [(4, 1_000), (5, 2), (6, 2)] {
        let tables = tables().await;
        let t = topic("coinbase/matches/BTC-USD");
        assert_eq!(tables.head(&t, now()).await.unwrap(), 0);
        assert!(tables.control.reserve_in(5, 1, &t, 1_000).await.unwrap());
        assert_eq!(tables.head(&t, now()).await.unwrap(), 1_000, "they may have been used");
        let fence = tables.log.fence(&t, 3, epoch, now()).await.unwrap();
        assert!(matches!(fence, Fence::Stands), "{fence:?}");
        assert_eq!(tables.head(&t, now()).await.unwrap(), expected, "case: epoch {epoch}");
        tables.log.append_in(Some(epoch), &frame(&t, 3, &["3"]), None, now()).await.unwrap();
        assert_eq!(tables.head(&t, now()).await.unwrap(), 3, "case: epoch {epoch}");
    }
}
