//! The stores against the embedded DynamoDB engine.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws::{
    clients::Clients, connections::ConnectionError, log::AppendError, reader::ShardReader,
    tables::Tables,
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
use dynamo::Engine;
use jiff::{Timestamp, ToSpan as _};

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
    log.append(&Entry::Lost { topic: t.clone(), seq: 4, last: 6 }, None, now()).await.unwrap();
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
async fn an_event_in_the_log_can_be_superseded() {
    let log = tables().await.log;
    let t = topic("mastodon/public");
    log.append(&frame(&t, 1, &["1", "2", "3"]), None, now()).await.unwrap();
    let gone = Bytes::from_static(b"{}");
    assert!(log.supersede(&t, 2, &gone, now()).await.unwrap());
    assert!(!log.supersede(&t, 4, &gone, now()).await.unwrap());
    let read = log.read(&t, 1, 1, usize::MAX, now()).await.unwrap();
    assert_eq!(read, [frame(&t, 1, &["1", "{}", "3"])]);
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
    assert_eq!(left, BTreeSet::from([a.clone()]));
    let left = connections.leave(0, &id, &BTreeSet::from([a])).await.unwrap();
    assert_eq!(left, BTreeSet::new());
    connections.close(0, &id).await.unwrap();
    connections.close(0, &id).await.expect("closing twice is fine");
    assert_eq!(connections.get(0, &id).await.unwrap(), None);
    assert!(reader.refresh(now()).await.unwrap()[0].gone);
    let late = connections.join(0, &id, &both, 50).await;
    assert!(matches!(late, Err(ConnectionError::NotOpen(_))), "{late:?}");
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
    assert!(!control.renew(&a, term, now() + 20.seconds()).await.unwrap());
    assert!(control.release(&b).await.unwrap());
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
    assert_eq!(control.reserved(&t).await.unwrap(), None);
    control.reserve(&t, 7).await.unwrap();
    assert_eq!(control.reserved(&t).await.unwrap(), Some(7));
    control.place("https://a.example/1", &t, &[3, 5], now()).await.unwrap();
    assert_eq!(control.places("https://a.example/1", &t).await.unwrap(), [3, 5]);
    assert!(control.places("https://a.example/2", &t).await.unwrap().is_empty());
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
