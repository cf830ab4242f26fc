//! Subscribing and pushing on the embedded database, with a stand-in for the gateway.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, HashSet},
    fmt::Write as _,
    sync::Arc,
    time::Duration,
};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use bytes::Bytes;
use clap::Parser as _;
use domain::{
    access::Principal,
    clock::Clock,
    connection::{Connection, ConnectionId, Recipient, Subscription},
    entry::Entry,
    frame::Frame,
    outlet::{Outlet, OutletError},
    push::{Behind, Changed, Job, Lag, Report, Stretch},
    rules::SetText,
    topic::Topic,
};
use dynamo::{Engine, Storage};
use functions::{
    app::App,
    connection,
    push::{JobError, Pusher},
    settings::Options,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::{Value, json};

/// A gateway that records the messages it is sent.
#[derive(Default)]
struct Gateway {
    accepted: Mutex<Vec<(ConnectionId, Bytes)>>,
    busy: Mutex<HashSet<ConnectionId>>,
    closed: Mutex<HashSet<ConnectionId>>,
    /// The calls that have not ended, and the most of them so far.
    calls: Mutex<(usize, usize)>,
}

impl Outlet for Gateway {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, OutletError)>> {
        let errors = recipients
            .iter()
            .enumerate()
            .filter_map(|(index, Recipient { id, .. })| {
                if self.closed.lock().contains(id) {
                    return Some((index, OutletError::Gone));
                }
                if self.busy.lock().contains(id) {
                    return Some((index, OutletError::Busy));
                }
                self.accepted.lock().push((id.clone(), message.clone()));
                None
            })
            .collect();
        Box::pin(async {
            {
                let mut calls = self.calls.lock();
                calls.0 += 1;
                calls.1 = calls.1.max(calls.0);
            }
            tokio::task::yield_now().await;
            self.calls.lock().0 -= 1;
            errors
        })
    }

    fn close<'a>(&'a self, _: &'a Recipient) -> BoxFuture<'a, Result<(), OutletError>> {
        Box::pin(async { Ok(()) })
    }
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

struct World {
    tables: Tables,
    gateway: Arc<Gateway>,
    app: App,
    pusher: Pusher,
}

impl World {
    async fn new() -> Self {
        let engine = Engine::inline(Storage::open(None).unwrap());
        let options =
            TableOptions { table_prefix: "t-".into(), retention: Duration::from_hours(1) };
        let tables = Clients::from_config(engine.sdk_config()).tables(&options);
        tables.create_missing().await.unwrap();
        let gateway = Arc::new(Gateway::default());
        let options = Cli::try_parse_from(["functions"]).unwrap().options;
        let preset = options.preset(SetText::open()).unwrap();
        let secret = SecretString::from("secret");
        let app = App::new(tables.clone(), gateway.clone(), options, preset, secret);
        let pusher = pusher(&tables, gateway.clone(), &app);
        Self { tables, gateway, app, pusher }
    }

    async fn connect(&self, id: &str) -> Recipient {
        let to = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new(id) };
        let now = Timestamp::now();
        let open = Connection::open(to.clone(), 0, Principal::anonymous(), now);
        self.tables.connections.open(&open).await.unwrap();
        to
    }

    /// Sends the message of a client to the function.
    async fn send(&self, from: &Recipient, message: Value) {
        let event = json!({
            "requestContext": {
                "eventType": "MESSAGE",
                "connectedAt": Timestamp::now().as_millisecond(),
                "requestTimeEpoch": Timestamp::now().as_millisecond(),
                "connectionId": from.id,
                "domainName": "gateway",
                "apiId": "api",
                "stage": "live",
                "identity": {},
            },
            "body": message.to_string(),
            "isBase64Encoded": false,
        });
        let event = serde_json::from_value(event).unwrap();
        connection::handle(&self.app, Timestamp::now(), event).await.unwrap();
    }

    async fn subscribe(&self, from: &Recipient, topic: &Topic) {
        self.send(from, json!({"action": "subscribe", "topics": [topic]})).await;
    }

    /// Appends events whose content is their sequence number.
    async fn append(&self, topic: &Topic, from: u64, to: u64) -> Frame {
        let events: Vec<String> = (from..=to).map(|n| n.to_string()).collect();
        let frame = Frame::new(topic.clone(), from, Timestamp::now(), &events);
        let entry = Entry::Frame(frame.clone());
        self.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
        frame
    }

    async fn push(&self, frames: Vec<Frame>, behind: Vec<Behind>) -> Report {
        self.handle(&self.pusher, job(frames, behind)).await
    }

    /// Does a job of a poller that knows all connections.
    async fn handle(&self, pusher: &Pusher, job: Job) -> Report {
        pusher.handle(self.with_changes(job).await).await.unwrap()
    }

    /// Names all connections in a job.
    async fn with_changes(&self, mut job: Job) -> Job {
        let all = self.tables.connections.changes(0, Timestamp::UNIX_EPOCH).await.unwrap();
        for connection in all {
            let joined = connection.topics.iter().map(|(topic, it)| (topic.clone(), it.start().1));
            job.changed.push(Changed {
                joined: joined.collect(),
                ..changed(&connection.recipient, connection.version)
            });
        }
        job
    }

    /// Makes another environment of `push`, which has seen nothing yet.
    fn another_pusher(&self) -> Pusher {
        pusher(&self.tables, self.gateway.clone(), &self.app)
    }

    /// Returns the events and gaps that a connection received, in order.
    fn received(&self, to: &Recipient) -> Vec<String> {
        let accepted = self.gateway.accepted.lock();
        let messages = accepted.iter().filter(|(id, _)| *id == to.id);
        messages
            .flat_map(|(_, message)| {
                let message: Value = serde_json::from_slice(message).unwrap();
                match message["type"].as_str().unwrap() {
                    "events" => {
                        let frames = message["frames"].as_array().unwrap().iter();
                        let events = frames.flat_map(|frame| {
                            let first = frame["seq"].as_u64().unwrap();
                            let events = frame["events"].as_array().unwrap().clone();
                            (first..).zip(events).map(|(seq, event)| {
                                assert_eq!(event, seq, "the event belongs to its number");
                                seq.to_string()
                            })
                        });
                        events.collect()
                    }
                    "gap" => vec![format!("gap {}-{}", message["from"], message["to"])],
                    _ => vec![],
                }
            })
            .collect()
    }
}

fn pusher(tables: &Tables, gateway: Arc<Gateway>, app: &App) -> Pusher {
    Pusher::new(tables, gateway, app.rules.clone(), Clock::new(Timestamp::now))
}

/// A job that sends these frames of topics on which everybody has what comes before them.
fn job(frames: Vec<Frame>, behind: Vec<Behind>) -> Job {
    let mut stretches: Vec<Stretch> = Vec::new();
    for frame in frames {
        let topic = frame.topic().clone();
        let index = stretches.iter().position(|it| it.topic == topic).unwrap_or_else(|| {
            let prev = frame.seq() - 1;
            stretches.push(Stretch { topic, prev, to: prev, entries: vec![] });
            stretches.len() - 1
        });
        stretches[index].to = frame.last();
        stretches[index].entries.push(Entry::Frame(frame));
    }
    Job { shard: 0, rules: 0, time_ms: 5_000, posts: 1_000, stretches, behind, changed: vec![] }
}

fn behind(to: &Recipient, topic: &Topic, next: u64, lag: Lag) -> Behind {
    let next = BTreeMap::from([(topic.clone(), next)]);
    Behind { connection: to.id.clone(), next, lag, waits: false }
}

fn changed(connection: &Recipient, version: u64) -> Changed {
    Changed { connection: connection.id.clone(), version, joined: BTreeMap::new() }
}

/// A connection that has joined a topic from this number on.
fn joined(to: &Recipient, topic: &Topic, next: u64) -> Behind {
    behind(to, topic, next, Lag::None)
}

fn topic(text: &str) -> Topic {
    Topic::parse(text).unwrap()
}

#[tokio::test]
async fn a_subscriber_receives_every_number_from_its_start() {
    let world = World::new().await;
    let t = topic("coinbase/matches/BTC-USD");
    world.append(&t, 1, 5).await;
    let since = world.connect("since").await;
    let newest = world.connect("newest").await;
    let last = world.connect("last").await;
    world
        .send(&since, json!({"action": "subscribe", "topics": [t], "since": {t.as_str(): 2}}))
        .await;
    world.subscribe(&newest, &t).await;
    world.send(&last, json!({"action": "subscribe", "topics": [t], "last": 1})).await;
    world.append(&t, 6, 7).await;
    let frame = world.append(&t, 8, 8).await;
    let behind = [&since, &newest, &last].map(|to| joined(to, &t, 6)).to_vec();
    let report = world.push(vec![frame], behind).await;
    assert_eq!(report.behind, []);
    assert_eq!(report.served, BTreeMap::from([(t.clone(), 8)]));
    world.push(vec![world.append(&t, 9, 9).await], vec![]).await;
    assert_eq!(world.received(&since), ["3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(world.received(&newest), ["6", "7", "8", "9"]);
    assert_eq!(world.received(&last), ["5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn missed_events_are_sent_even_if_no_others_follow() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    world.append(&t, 1, 2).await;
    let report = world.push(vec![], vec![joined(&to, &t, 1)]).await;
    assert_eq!(world.received(&to), ["1", "2"]);
    assert_eq!((report.behind.len(), report.served[&t]), (0, 2), "the end of the log is reported");
}

#[tokio::test]
async fn connections_with_equal_topics_share_one_message() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let a = world.connect("a").await;
    let b = world.connect("b").await;
    let c = world.connect("c").await;
    for to in [&a, &b] {
        world.subscribe(to, &t).await;
    }
    world.subscribe(&c, &topic("system/sources")).await;
    world.gateway.accepted.lock().clear();
    let report = world.push(vec![world.append(&t, 1, 1).await], vec![]).await;
    assert_eq!((report.posts, report.refused), (2, 0));
    let accepted = world.gateway.accepted.lock();
    assert_eq!(accepted.len(), 2, "{accepted:?}");
    assert_eq!(accepted[0].1.as_ptr(), accepted[1].1.as_ptr(), "the bytes are shared");
}

#[tokio::test]
async fn a_slow_connection_delays_no_other_and_any_environment_continues_where_it_is() {
    let world = World::new().await;
    let lossless = topic("mastodon/public");
    let ticker = topic("coinbase/ticker/BTC-USD");
    let slow = world.connect("slow").await;
    let quick = world.connect("quick").await;
    for to in [&slow, &quick] {
        world.subscribe(to, &lossless).await;
        world.subscribe(to, &ticker).await;
    }
    world.gateway.busy.lock().insert(slow.id.clone());
    let mut behind = vec![];
    for n in 1..=3 {
        let frames = vec![world.append(&lossless, n, n).await, world.append(&ticker, n, n).await];
        let report = world.handle(&world.another_pusher(), job(frames, behind)).await;
        let expected = BTreeMap::from([(lossless.clone(), 1), (ticker.clone(), 1)]);
        assert_eq!(report.behind.len(), 1);
        assert_eq!((&report.behind[0].next, report.behind[0].lag), (&expected, Lag::Slow));
        behind = report.behind;
    }
    world.gateway.busy.lock().clear();
    let mut last = job(vec![], behind);
    for topic in [&lossless, &ticker] {
        last.stretches.push(Stretch { topic: topic.clone(), prev: 3, to: 3, entries: vec![] });
    }
    let report = world.handle(&world.another_pusher(), last).await;
    assert_eq!(report.behind, []);
    assert_eq!(world.received(&quick), ["1", "1", "2", "2", "3", "3"]);
    assert_eq!(
        world.received(&slow),
        ["gap 1-2", "3", "1", "2", "3"],
        "only the newest ticker event"
    );
    world.push(vec![world.append(&lossless, 4, 4).await], vec![]).await;
    assert_eq!(world.received(&slow).last().unwrap(), "4", "it has returned to its group");
}

#[tokio::test]
async fn a_connection_that_waits_is_sent_nothing_and_keeps_its_place() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    world.append(&t, 1, 1).await;
    let frame = world.append(&t, 2, 2).await;
    let waiting = Behind { waits: true, ..behind(&to, &t, 1, Lag::Slow) };
    let report = world.push(vec![frame], vec![waiting]).await;
    assert_eq!(report.behind, [behind(&to, &t, 1, Lag::Slow)]);
    assert_eq!(world.received(&to), Vec::<String>::new());
}

#[tokio::test]
async fn a_connection_that_is_too_slow_is_sent_a_gap_and_continues_at_the_head() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    for seq in 1..=10 {
        // The event is its number, after many spaces.
        let event = format!("{}{seq}", " ".repeat(30_000));
        let entry = Entry::Frame(Frame::new(t.clone(), seq, Timestamp::now(), &[event]));
        world.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
    }
    let mut catch_up = job(vec![], vec![behind(&to, &t, 1, Lag::Slow)]);
    catch_up.stretches.push(Stretch { topic: t.clone(), prev: 10, to: 10, entries: vec![] });
    let report = world.handle(&world.pusher, catch_up).await;
    assert_eq!(world.received(&to), ["gap 1-10"]);
    assert_eq!(report.behind, []);
    let mut joining = job(vec![], vec![joined(&to, &t, 2)]);
    joining.stretches.push(Stretch { topic: t.clone(), prev: 10, to: 10, entries: vec![] });
    world.handle(&world.pusher, joining).await;
    assert_eq!(world.received(&to)[1..], ["2", "3", "4", "5", "6", "7", "8", "9", "10"]);
}

#[tokio::test]
async fn a_closed_connection_is_reported_and_removed() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    world.gateway.closed.lock().insert(to.id.clone());
    let report = world.push(vec![world.append(&t, 1, 1).await], vec![]).await;
    assert_eq!(report.gone, std::slice::from_ref(&to.id));
    assert_eq!(world.tables.connections.get(0, &to.id).await.unwrap(), None);
    let report = world.push(vec![world.append(&t, 2, 2).await], vec![]).await;
    assert_eq!((report.gone.len(), report.posts), (0, 0));
    let rest = job(vec![], vec![joined(&to, &t, 1)]);
    let report = world.handle(&world.another_pusher(), rest).await;
    assert_eq!(report.gone, [to.id], "an environment that never knew it");
}

#[tokio::test]
async fn unsubscribing_stops_events_and_lost_numbers_are_gaps_in_their_place() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let stays = world.connect("stays").await;
    let leaves = world.connect("leaves").await;
    for to in [&stays, &leaves] {
        world.subscribe(to, &t).await;
    }
    world.push(vec![world.append(&t, 1, 1).await], vec![]).await;
    world.tables.connections.leave(0, &leaves.id, &[t.clone()].into()).await.unwrap();
    let lost = Entry::Lost { topic: t.clone(), seq: 3, last: 4, is_logged: false };
    let before = Entry::Frame(world.append(&t, 2, 2).await);
    world.tables.log.append(&lost, None, Timestamp::now()).await.unwrap();
    let after = Entry::Frame(world.append(&t, 5, 5).await);
    let entries = vec![before, lost, after];
    let mut next = job(vec![], vec![]);
    next.stretches.push(Stretch { topic: t.clone(), prev: 1, to: 5, entries });
    world.handle(&world.pusher, next).await;
    assert_eq!(world.received(&stays), ["1", "2", "gap 3-4", "5"]);
    assert_eq!(world.received(&leaves), ["1"]);
    let late = world.connect("late").await;
    world
        .send(&late, json!({"action": "subscribe", "topics": [t], "since": {t.as_str(): 0}}))
        .await;
    assert_eq!(world.received(&late), ["1", "2", "gap 3-4", "5"], "a replay reports the gap too");
}

#[tokio::test]
async fn a_hole_in_a_job_is_filled_from_the_log() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    world.append(&t, 1, 2).await;
    let frame = world.append(&t, 3, 3).await;
    world.append(&t, 4, 5).await;
    let mut next = job(vec![frame], vec![]);
    next.stretches[0].prev = 0;
    next.stretches[0].to = 6;
    let report = world.handle(&world.pusher, next).await;
    assert_eq!(world.received(&to), ["1", "2", "3", "4", "5", "gap 6-6"], "6 has expired");
    assert_eq!(report.served[&t], 6);
}

#[tokio::test]
async fn a_job_without_time_or_posts_reports_who_was_not_reached() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    for id in ["a", "b"] {
        let to = world.connect(id).await;
        world.subscribe(&to, &t).await;
    }
    world.gateway.accepted.lock().clear();
    let frame = world.append(&t, 1, 1).await;
    let hurried = Job { time_ms: 0, ..job(vec![frame.clone()], vec![]) };
    match world.pusher.handle(world.with_changes(hurried).await).await {
        Err(error) => assert!(matches!(error, JobError::OutOfTime), "{error}"),
        // The database can answer before anything waits.
        Ok(report) => assert_eq!((report.behind.len(), report.posts), (2, 0)),
    }
    let poor = Job { posts: 1, ..job(vec![frame], vec![]) };
    let report = world.handle(&world.pusher, poor).await;
    assert_eq!((report.behind.len(), report.posts), (1, 1));
    assert_eq!(report.behind[0].lag, Lag::None, "it is not its fault");
    assert_eq!(world.gateway.accepted.lock().len(), 1);
    let rest = world.push(vec![], report.behind).await;
    assert_eq!((rest.behind.len(), rest.posts), (0, 1));
}

#[tokio::test]
async fn a_subscription_that_the_poller_does_not_know_yet_is_not_served() {
    let world = World::new().await;
    let known = topic("mastodon/public");
    let joined = topic("mastodon/tag/rustlang");
    let to = world.connect("a").await;
    world.subscribe(&to, &known).await;
    let item = world.tables.connections.get(0, &to.id).await.unwrap().unwrap();
    let since = item.topics[&known].start().1;
    world.subscribe(&to, &joined).await;
    let mut early =
        job(vec![world.append(&known, 1, 1).await, world.append(&joined, 2, 2).await], vec![]);
    let joined_earlier = BTreeMap::from([(known.clone(), since)]);
    early.changed.push(Changed { joined: joined_earlier, ..changed(&to, item.version) });
    let report = world.pusher.handle(early.clone()).await.unwrap();
    assert_eq!(world.received(&to), ["1"], "where the other subscription starts is not known");
    assert_eq!(report.behind, []);
    let item = world.tables.connections.get(0, &to.id).await.unwrap().unwrap();
    early.changed[0].joined.insert(joined.clone(), item.topics[&joined].start().1);
    early.stretches.remove(0);
    world.pusher.handle(early).await.unwrap();
    assert_eq!(world.received(&to), ["1", "2"]);
}

#[tokio::test(start_paused = true)]
async fn a_connection_is_subscribed_even_if_the_confirmation_could_not_be_sent() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.gateway.busy.lock().insert(to.id.clone());
    world.subscribe(&to, &t).await;
    let item = world.tables.connections.get(0, &to.id).await.unwrap().unwrap();
    assert!(matches!(item.topics[&t], Subscription::Live { cursor: 0, .. }), "{item:?}");
}

/// A text of about this many bytes that does not compress well.
fn noise(bytes: usize, mut seed: u64) -> String {
    let mut text = String::with_capacity(bytes + 16);
    while text.len() < bytes {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        write!(text, "{seed:016x}").unwrap();
    }
    text
}

/// Appends so many bytes to the log that it takes two reads.
async fn append_much(world: &World, topic: &Topic) -> u64 {
    for seq in 1..=40 {
        let event = format!("\"{}\"", noise(100_000, seq));
        let entry = Entry::Frame(Frame::new(topic.clone(), seq, Timestamp::now(), &[event]));
        world.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
    }
    40
}

#[tokio::test]
async fn a_long_catching_up_takes_several_jobs_and_reports_no_end_before_the_last() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    let last = append_much(&world, &t).await;
    let mut report = world.push(vec![], vec![joined(&to, &t, 1)]).await;
    assert!(!report.behind.is_empty());
    while !report.behind.is_empty() {
        assert_eq!(report.served, BTreeMap::new(), "the end of the log was not reached");
        report = world.push(vec![], report.behind).await;
    }
    assert_eq!(report.served, BTreeMap::from([(t.clone(), last)]));
    let accepted = world.gateway.accepted.lock();
    let events =
        accepted.iter().filter(|(_, message)| message.starts_with(b"{\"type\":\"events\""));
    assert_eq!(events.count() as u64, last, "each event once");
}

#[tokio::test]
async fn the_gap_of_a_connection_that_is_too_slow_ends_at_the_end_of_the_log() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    let last = append_much(&world, &t).await;
    let report = world.push(vec![], vec![behind(&to, &t, 1, Lag::Slow)]).await;
    assert_eq!(world.received(&to), [format!("gap 1-{last}")]);
    assert_eq!(report.behind, []);
}

#[tokio::test]
async fn a_subscription_is_removed_only_if_the_client_was_notified() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    world.push(vec![], vec![]).await;
    let connect = "permit (principal, action == Action::\"connect\", resource);";
    let rules = SetText { policies: connect.to_owned(), ..SetText::open() };
    let rules = world.tables.control.put_rules(&rules, "root", Timestamp::now()).await.unwrap();
    let job = Job { rules: rules.version, ..job(vec![], vec![]) };
    world.gateway.busy.lock().insert(to.id.clone());
    let report = world.handle(&world.pusher, job.clone()).await;
    assert_eq!(report.unfinished, 1);
    let subscribed = world.tables.connections.get(0, &to.id).await.unwrap().unwrap().topics;
    assert!(subscribed.contains_key(&t), "the client does not know that it is not subscribed");

    world.gateway.busy.lock().clear();
    let report = world.handle(&world.pusher, job).await;
    assert_eq!(report.unfinished, 0);
    let (_, last) = world.gateway.accepted.lock().last().cloned().unwrap();
    let last: Value = serde_json::from_slice(&last).unwrap();
    assert_eq!((&last["code"], &last["topic"]), (&json!("forbidden"), &json!(t)));
    let subscribed = world.tables.connections.get(0, &to.id).await.unwrap().unwrap().topics;
    assert!(subscribed.is_empty(), "{subscribed:?}");
}

#[tokio::test]
async fn a_job_posts_to_a_bounded_number_of_groups_at_the_same_time() {
    let world = World::new().await;
    let mut frames = Vec::new();
    for group in 0..200 {
        let t = topic(&format!("mastodon/tag/t{group}"));
        let to = world.connect(&format!("c{group}")).await;
        world.subscribe(&to, &t).await;
        frames.push(world.append(&t, 1, 1).await);
    }
    *world.gateway.calls.lock() = (0, 0);
    let report = world.push(frames, vec![]).await;
    assert_eq!((report.served.len(), report.behind), (200, vec![]));
    let (_, most) = *world.gateway.calls.lock();
    assert!((2..=64).contains(&most), "{most} at the same time");
}
