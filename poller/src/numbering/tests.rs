//! Numbering against the embedded engine, with faults between the two.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use aws::{
    clients::{Clients, TableOptions},
    control::posts::Remembered,
    tables::Tables,
};
use domain::{clock::Clock, frame::Frame};
use dynamo::{Engine, Fault, Faults, Storage};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::*;
use crate::{leases, outgoing::StatusRecord};

/// A poller's numbering, with its own connection to the database.
struct Process {
    faults: Faults,
    tables: Tables,
    numbering: Numbering,
    shutdown: CancellationToken,
    running: JoinHandle<()>,
}

impl Process {
    async fn start(storage: &Storage) -> Self {
        Self::with_memory(storage, 1_000_000).await
    }

    async fn with_memory(storage: &Storage, memory_bytes: usize) -> Self {
        let faults = Faults::default();
        let engine = Engine::inline(storage.clone()).with_faults(faults.clone());
        let options =
            TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
        let tables = Clients::from_config(engine.sdk_config()).tables(&options);
        tables.create_missing().await.expect("tables");
        let leadership = Leadership::default();
        let options = Options { flush: Duration::from_millis(20), memory_bytes };
        let (log, control) = (tables.log.clone(), tables.control.clone());
        let numbering =
            Numbering::new(log, control, leadership.clone(), Clock::new(Timestamp::now), options);
        let lanes = Lanes::new([], leadership, 1, Clock::new(Timestamp::now));
        let shutdown = CancellationToken::new();
        let (runs, stop) = (numbering.clone(), shutdown.clone());
        let running = tokio::spawn(async move { runs.run(lanes, stop).await });
        Self { faults, tables, numbering, shutdown, running }
    }

    /// Acquires the lease of a family, which the previous owner does not notice, and leads for an hour.
    async fn lead(&self, family: &str, owner: &str) {
        let control = &self.tables.control;
        control.clear_leases().await.expect("cleared");
        let term = Duration::from_hours(1);
        let lease = control.acquire(family, owner, term, Timestamp::now()).await;
        let lease = lease.expect("a response").expect("the lease is free");
        self.numbering.lead(lease, Instant::now() + term);
        self.numbering.recover(family).await;
    }

    /// Cuts the process off from the database, as if it were killed.
    fn kill(&self) {
        self.faults.set(|_, _| Some(Fault::LoseRequest));
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.running.await.expect("it ends");
    }

    fn publish(&self, topic: &Topic, text: &str) {
        self.numbering.publish(topic, Outgoing::plain(text.to_owned()));
    }

    /// Publishes an event about the post `uri`.
    fn post(&self, kind: &str, text: &str, role: fn(Arc<str>) -> Role) {
        let event = json!({"type": kind, "id": POST, "text": text}).to_string();
        let event = Outgoing::new(event, role(POST.into()));
        self.numbering.publish(&Topic::mastodon_public(), event);
    }

    /// Returns the numbered events of a topic.
    async fn log(&self, topic: &Topic) -> Vec<(u64, String)> {
        let entries = self.tables.log.read(topic, 1, u64::MAX, usize::MAX, Timestamp::now()).await;
        let entries = entries.expect("a log");
        let events = entries.into_iter().flat_map(|entry| match entry {
            Entry::Frame(frame) => Frame::events(&frame),
            Entry::Lost { seq, last, .. } => vec![(seq, format!("lost to {last}").into())],
        });
        events.map(|(seq, text)| (seq, String::from_utf8_lossy(&text).into_owned())).collect()
    }

    /// Waits until a topic has as many events.
    async fn has(&self, topic: &Topic, count: usize) {
        soon(async || self.log(topic).await.len() >= count).await;
    }

    /// Waits until the log has a post's text nowhere, and nothing is pending.
    async fn settles_without(&self, text: &str) {
        soon(async || {
            let log = self.log(&Topic::mastodon_public()).await;
            let pending = self.tables.control.pending("mastodon").await.expect("read");
            !log.is_empty() && log.iter().all(|(_, it)| !it.contains(text)) && pending.is_empty()
        })
        .await;
    }
}

const POST: &str = "https://a.example/1";

/// Waits until a condition holds.
async fn soon(holds: impl AsyncFn() -> bool) {
    for _ in 0..10_000 {
        if holds().await {
            return;
        }
        time::sleep(Duration::from_millis(200)).await;
    }
    panic!("it did not happen");
}

fn trades() -> Topic {
    Topic::parse("coinbase/matches/BTC-USD").expect("a topic")
}

fn storage() -> Storage {
    Storage::open(None).expect("a database")
}

fn texts(log: &[(u64, String)]) -> Vec<&str> {
    log.iter().map(|(_, text)| text.as_str()).collect()
}

fn numbers(log: &[(u64, String)]) -> Vec<u64> {
    log.iter().map(|(seq, _)| *seq).collect()
}

/// Returns whether an operation puts an item into the log.
fn is_append(operation: &str, request: &[u8]) -> bool {
    let request: Value = serde_json::from_slice(request).expect("JSON");
    operation == "PutItem" && request["TableName"] == "test-events"
}

#[tokio::test(start_paused = true)]
async fn an_append_whose_response_is_lost_is_not_repeated_under_other_numbers() {
    for topic in [trades(), Topic::system_sources()] {
        let process = Process::start(&storage()).await;
        process.lead("coinbase", "a").await;
        let lost = AtomicUsize::new(0);
        process.faults.set(move |operation, request| {
            // More often than the SDK retries.
            let is_lost =
                is_append(operation, request) && lost.fetch_add(1, Ordering::Relaxed) < 20;
            is_lost.then_some(Fault::LoseResponse)
        });
        for text in ["1", "2"] {
            process.publish(&topic, text);
        }
        process.has(&topic, 2).await;
        process.publish(&topic, "3");
        process.has(&topic, 3).await;
        time::sleep(Duration::from_mins(1)).await;
        let expected = [(1, "1"), (2, "2"), (3, "3")].map(|(seq, it)| (seq, it.to_owned()));
        assert_eq!(process.log(&topic).await, expected, "case: {topic}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_was_frozen_cannot_append() {
    let storage = storage();
    let frozen = Process::start(&storage).await;
    frozen.lead("coinbase", "a").await;
    frozen.publish(&trades(), "1");
    frozen.has(&trades(), 1).await;
    let leader = Process::start(&storage).await;
    leader.lead("coinbase", "b").await;
    // A source has read the end of the topic, and publishes what comes after it.
    leader.numbering.fence(&trades()).await.expect("a fence");
    frozen.publish(&trades(), "stale");
    time::sleep(Duration::from_secs(30)).await;
    assert_eq!(texts(&leader.log(&trades()).await), ["1"]);
    for text in ["2", "3"] {
        leader.publish(&trades(), text);
        leader.has(&trades(), text.parse().expect("a number")).await;
    }
    frozen.publish(&trades(), "stale again");
    time::sleep(Duration::from_secs(30)).await;
    leader.publish(&trades(), "4");
    leader.has(&trades(), 4).await;
    let log = leader.log(&trades()).await;
    assert_eq!((texts(&log), numbers(&log)), (vec!["1", "2", "3", "4"], vec![1, 2, 3, 4]));
}

#[tokio::test(start_paused = true)]
async fn an_outage_of_the_database_loses_nothing() {
    let process = Process::start(&storage()).await;
    let is_down = Arc::new(AtomicBool::new(false));
    let down = is_down.clone();
    process.faults.set(move |_, _| down.load(Ordering::Relaxed).then_some(Fault::LoseRequest));
    let publisher = process.numbering.clone();
    let lead = |_, term: CancellationToken| {
        let publisher = publisher.clone();
        async move {
            for count in 1..=90 {
                publisher.publish(&trades(), Outgoing::plain(count.to_string()));
                time::sleep(Duration::from_secs(1)).await;
            }
            term.cancelled().await;
        }
    };
    let (control, numbering) = (process.tables.control.clone(), process.numbering.clone());
    let holding = leases::hold(
        control,
        numbering,
        "coinbase",
        "a".into(),
        Clock::new(Timestamp::now),
        process.shutdown.clone(),
        lead,
    );
    let test = async {
        process.has(&trades(), 5).await;
        is_down.store(true, Ordering::Relaxed);
        time::sleep(Duration::from_secs(25)).await;
        is_down.store(false, Ordering::Relaxed);
        process.has(&trades(), 90).await;
    };
    tokio::select! {
        () = holding => panic!("the lease was lost"),
        () = test => {}
    }
    let expected: Vec<String> = (1..=90).map(|count: u32| count.to_string()).collect();
    let log = process.log(&trades()).await;
    assert_eq!(
        (texts(&log), numbers(&log).last()),
        (expected.iter().map(String::as_str).collect(), Some(&90))
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_appended_after_the_term() {
    let process = Process::start(&storage()).await;
    process.lead("coinbase", "a").await;
    process.publish(&trades(), "1");
    process.has(&trades(), 1).await;
    let lease = process.numbering.leases().pop().expect("a lease");
    process.numbering.lead(lease.clone(), Instant::now());
    time::sleep(Duration::from_secs(11)).await;
    process.publish(&trades(), "2");
    time::sleep(Duration::from_secs(30)).await;
    assert_eq!(texts(&process.log(&trades()).await), ["1"]);
    process.numbering.renewed("coinbase", Instant::now());
    process.has(&trades(), 2).await;
}

/// Deletes all entries of a topic, as their expiry does.
fn expire(storage: &Storage, topic: &Topic) {
    for seq in 1..20 {
        let key = json!({"topic": {"S": topic.as_str()}, "seq": {"N": seq.to_string()}});
        let request = json!({"TableName": "test-events", "Key": key}).to_string();
        let (status, response) = storage.call("DeleteItem", request.as_bytes());
        assert_eq!(status, 200, "{response}");
    }
}

#[tokio::test(start_paused = true)]
async fn numbering_continues_exactly_after_the_whole_log_has_expired() {
    for is_idle in [true, false] {
        let storage = storage();
        let process = Process::start(&storage).await;
        process.lead("coinbase", "a").await;
        for text in ["1", "2", "3"] {
            process.publish(&trades(), text);
        }
        process.has(&trades(), 3).await;
        if is_idle {
            time::sleep(TIDY_EVERY + SILENCE).await;
            process.kill();
        } else {
            process.stop().await;
        }
        expire(&storage, &trades());
        let next = Process::start(&storage).await;
        assert_eq!(next.tables.head(&trades(), Timestamp::now()).await.expect("a head"), 3);
        next.lead("coinbase", "b").await;
        next.publish(&trades(), "4");
        next.has(&trades(), 1).await;
        assert_eq!(numbers(&next.log(&trades()).await), [4], "case: idle {is_idle}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_topic_without_a_leader_continues_exactly_after_its_log_has_expired() {
    let storage = storage();
    let topic = Topic::system_sources();
    for (text, number) in [("1", 1), ("2", 2), ("3", 3)] {
        let process = Process::start(&storage).await;
        process.publish(&topic, text);
        process.has(&topic, 1).await;
        assert_eq!(numbers(&process.log(&topic).await), [number]);
        process.kill();
        expire(&storage, &topic);
    }
}

#[tokio::test(start_paused = true)]
async fn a_poller_notices_that_others_used_numbers_that_have_expired() {
    let storage = storage();
    let topic = Topic::system_sources();
    let (one, other) = (Process::start(&storage).await, Process::start(&storage).await);
    one.publish(&topic, "1");
    one.has(&topic, 1).await;
    for count in 2..=3 {
        other.publish(&topic, &count.to_string());
        other.has(&topic, count).await;
    }
    expire(&storage, &topic);
    one.publish(&topic, "4");
    one.has(&topic, 1).await;
    assert_eq!(numbers(&one.log(&topic).await), [4]);
}

#[tokio::test(start_paused = true)]
async fn no_number_is_used_twice_if_a_poller_is_killed_and_the_log_expires() {
    let storage = storage();
    let process = Process::start(&storage).await;
    process.lead("coinbase", "a").await;
    process.publish(&trades(), "1");
    process.has(&trades(), 1).await;
    // It returns its numbers, and appends again.
    time::sleep(TIDY_EVERY + SILENCE).await;
    process.publish(&trades(), "2");
    process.has(&trades(), 2).await;
    process.kill();
    expire(&storage, &trades());
    let next = Process::start(&storage).await;
    next.lead("coinbase", "b").await;
    next.publish(&trades(), "3");
    next.has(&trades(), 1).await;
    let [number] = numbers(&next.log(&trades()).await)[..] else { panic!("one event") };
    assert!((3..=2_003).contains(&number), "{number}");
}

#[tokio::test(start_paused = true)]
async fn numbers_that_were_reserved_and_never_used_are_no_gap() {
    let storage = storage();
    let process = Process::start(&storage).await;
    process.faults.set(|operation, request| {
        let request_json: Value = serde_json::from_slice(request).expect("JSON");
        let is_entry = request_json["Item"].get("last").is_some();
        (is_append(operation, request) && is_entry).then_some(Fault::LoseRequest)
    });
    process.lead("coinbase", "a").await;
    process.publish(&trades(), "1");
    soon(async || process.tables.control.reservation(&trades()).await.is_ok_and(|it| it.is_some()))
        .await;
    process.kill();
    let next = Process::start(&storage).await;
    assert_eq!(next.tables.head(&trades(), Timestamp::now()).await.expect("a head"), 0);
    next.lead("coinbase", "b").await;
    next.publish(&trades(), "1");
    next.has(&trades(), 1).await;
    assert_eq!(numbers(&next.log(&trades()).await), [1]);
}

#[tokio::test(start_paused = true)]
async fn a_post_is_appended_after_the_status_that_it_comes_from_is_stored() {
    let process = Process::start(&storage()).await;
    process.lead("mastodon", "a").await;
    process.faults.set(|_, request| {
        String::from_utf8_lossy(request).contains("status/a.example").then_some(Fault::LoseRequest)
    });
    let (topic, uri) = (Topic::mastodon_public(), POST.to_owned());
    let remembered = Remembered { uri, topics: [topic.clone()].into() };
    let later = Timestamp::now() + Duration::from_hours(1);
    let status = StatusRecord::new("a.example".into(), "1".into(), remembered.clone(), later);
    let event = json!({"type": "post", "id": POST}).to_string();
    let event = Outgoing {
        status: Some(Arc::new(status)),
        ..Outgoing::new(event, Role::Posted(POST.into()))
    };
    process.numbering.publish(&topic, event);
    time::sleep(Duration::from_mins(1)).await;
    assert_eq!(process.log(&topic).await, []);
    process.faults.clear();
    process.has(&topic, 1).await;
    let stored = process.tables.control.status("a.example", "1").await.expect("read");
    assert_eq!(stored, Some(remembered));
}

#[tokio::test(start_paused = true)]
async fn an_edit_and_a_delete_replace_a_post_everywhere() {
    let process = Process::start(&storage()).await;
    process.lead("mastodon", "a").await;
    process.post("post", "secret", Role::Posted);
    process.has(&Topic::mastodon_public(), 1).await;
    process.post("post.edited", "public", Role::Edited);
    process.settles_without("secret").await;
    process.post("post.deleted", "", Role::Deleted);
    process.settles_without("public").await;
    assert_eq!(process.log(&Topic::mastodon_public()).await.len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_delete_survives_the_poller_that_received_it() {
    /// Where the poller is killed.
    type Killed = fn(&str, &Value) -> bool;
    let cases: [(&str, Killed); 3] = [
        ("before the append", |operation, request| {
            operation == "PutItem"
                && request["TableName"] == "test-events"
                && request["Item"]["seq"]["N"] == "2"
        }),
        ("before the replacement", |operation, request| {
            operation == "UpdateItem" && request["TableName"] == "test-events"
        }),
        ("before the end", |operation, _| operation == "DeleteItem"),
    ];
    for (name, killed) in cases {
        let storage = storage();
        let process = Process::start(&storage).await;
        process.lead("mastodon", "a").await;
        process.post("post", "secret", Role::Posted);
        process.has(&Topic::mastodon_public(), 1).await;
        let is_killed = Arc::new(AtomicBool::new(false));
        let dead = is_killed.clone();
        process.faults.set(move |operation, request| {
            let request: Value = serde_json::from_slice(request).expect("JSON");
            dead.fetch_or(killed(operation, &request), Ordering::Relaxed);
            dead.load(Ordering::Relaxed).then_some(Fault::LoseRequest)
        });
        process.post("post.deleted", "", Role::Deleted);
        soon(async || is_killed.load(Ordering::Relaxed)).await;
        let next = Process::start(&storage).await;
        next.lead("mastodon", "b").await;
        next.settles_without("secret").await;
        let log = next.log(&Topic::mastodon_public()).await;
        assert!(log.iter().all(|(_, it)| it.contains("post.deleted")), "case: {name}: {log:?}");
        assert!(log.len() > 1, "case: {name}: subscribers get the delete");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_the_queue_drops_is_carried_out() {
    let process = Process::with_memory(&storage(), 400).await;
    process.lead("mastodon", "a").await;
    process.post("post", "public", Role::Posted);
    process.has(&Topic::mastodon_public(), 1).await;
    process
        .faults
        .set(|operation, request| is_append(operation, request).then_some(Fault::LoseRequest));
    // The post is in an append that is not resolved when its delete is dropped.
    process.post("post", "secret", Role::Posted);
    time::sleep(Duration::from_secs(1)).await;
    for _ in 0..20 {
        process.post("post.deleted", "", Role::Deleted);
    }
    time::sleep(Duration::from_mins(3)).await;
    let pending = process.tables.control.pending("mastodon").await.expect("read");
    assert_eq!(pending.len(), 1, "it is recorded");
    process.faults.clear();
    process.has(&Topic::mastodon_public(), 3).await;
    process.settles_without("secret").await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_that_is_pending_when_the_lease_is_lost_is_carried_out() {
    let storage = storage();
    let process = Process::start(&storage).await;
    process.lead("mastodon", "a").await;
    process.post("post", "secret", Role::Posted);
    process.has(&Topic::mastodon_public(), 1).await;
    let next = Process::start(&storage).await;
    next.lead("mastodon", "b").await;
    next.numbering.fence(&Topic::mastodon_public()).await.expect("a fence");
    process.post("post.deleted", "", Role::Deleted);
    time::sleep(Duration::from_secs(1)).await;
    process.numbering.follow("mastodon");
    next.settles_without("secret").await;
}

#[tokio::test(start_paused = true)]
async fn rounds_are_an_interval_apart_and_the_first_after_a_silence_starts_at_once() {
    let start = Instant::now();
    let millis = Duration::from_millis;
    let mut pace = RoundPace::new(millis(20));
    let mut starts = Vec::new();
    for busy in [0, 5, 25, 100, 0] {
        pace.wait().await;
        starts.push(start.elapsed().as_millis());
        time::sleep(millis(busy)).await;
    }
    // The fourth round is 5 ms late and on time for the one after it.
    assert_eq!(starts, [0, 20, 40, 65, 165]);
    pace.wait().await;
    assert_eq!(start.elapsed().as_millis(), 185);
}
