//! Subscribing and pushing on the embedded database, with a stand-in for the gateway.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{collections::HashSet, sync::Arc, time::Duration};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use bytes::Bytes;
use clap::Parser as _;
use domain::{
    access::Principal,
    connection::{Connection, ConnectionId, Recipient},
    entry::Entry,
    frame::Frame,
    outlet::{Outlet, OutletError},
    push::{Job, Lost, Report},
    rules::SetText,
    topic::Topic,
};
use dynamo::Engine;
use functions::{app::App, connection, push::Pusher, settings::Options};
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
        Box::pin(async { errors })
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
        let engine = Engine::open(None).unwrap();
        let options =
            TableOptions { table_prefix: "t-".into(), retention: Duration::from_hours(1) };
        let tables = Clients::from_config(engine.sdk_config()).tables(&options);
        tables.create_missing().await.unwrap();
        let gateway = Arc::new(Gateway::default());
        let options = Cli::try_parse_from(["functions"]).unwrap().options;
        let preset = options.preset(SetText::open()).unwrap();
        let secret = SecretString::from("secret");
        let app = App::new(tables.clone(), gateway.clone(), options, preset, secret);
        let clock = Arc::new(Timestamp::now);
        let pusher = Pusher::new(&tables, gateway.clone(), app.rules.clone(), clock);
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

    async fn push(&self, frames: Vec<Frame>, joined: &[&Recipient]) -> Report {
        let joined = joined.iter().map(|to| to.id.clone()).collect();
        self.pusher.handle(Job { shard: 0, joined, lost: vec![], rules: 0, frames }).await.unwrap()
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
    // A poller that does not know the connections yet sends them nothing.
    world.append(&t, 6, 7).await;
    let frame = world.append(&t, 8, 8).await;
    world.push(vec![frame.clone()], &[]).await;
    world.push(vec![world.append(&t, 9, 9).await], &[&since, &newest, &last]).await;
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
    world.push(vec![], &[]).await;
    assert_eq!(world.received(&to), Vec::<String>::new(), "the log may not have every event yet");
    world.push(vec![], &[&to]).await;
    assert_eq!(world.received(&to), ["1", "2"]);
    world.push(vec![], &[&to]).await;
    assert_eq!(world.received(&to), ["1", "2"], "once");
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
    world.push(vec![], &[&a, &b, &c]).await;
    world.gateway.accepted.lock().clear();
    let report = world.push(vec![world.append(&t, 1, 1).await], &[]).await;
    assert_eq!(report.delivered, 2);
    let accepted = world.gateway.accepted.lock();
    assert_eq!(accepted.len(), 2, "{accepted:?}");
    assert_eq!(accepted[0].1.as_ptr(), accepted[1].1.as_ptr(), "the bytes are shared");
}

#[tokio::test]
async fn a_slow_connection_delays_no_other_and_is_sent_what_it_missed() {
    let world = World::new().await;
    let lossless = topic("mastodon/public");
    let ticker = topic("coinbase/ticker/BTC-USD");
    let slow = world.connect("slow").await;
    let quick = world.connect("quick").await;
    for to in [&slow, &quick] {
        world.subscribe(to, &lossless).await;
        world.subscribe(to, &ticker).await;
    }
    world.push(vec![], &[&slow, &quick]).await;
    world.gateway.busy.lock().insert(slow.id.clone());
    for n in 1..=3 {
        let frames = vec![world.append(&lossless, n, n).await, world.append(&ticker, n, n).await];
        let report = world.push(frames, &[]).await;
        assert_eq!((report.delivered, report.waiting), (1, 1));
    }
    world.gateway.busy.lock().clear();
    let report = world.push(vec![], &[]).await;
    assert_eq!(report.waiting, 0);
    assert_eq!(world.received(&quick), ["1", "1", "2", "2", "3", "3"]);
    assert_eq!(
        world.received(&slow),
        ["gap 1-2", "1", "2", "3", "3"],
        "only the newest ticker event"
    );
    world.push(vec![world.append(&lossless, 4, 4).await], &[]).await;
    assert_eq!(world.received(&slow).last().unwrap(), "4", "it has returned to its group");
}

#[tokio::test]
async fn a_closed_connection_is_removed() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t).await;
    world.gateway.closed.lock().insert(to.id.clone());
    let report = world.push(vec![world.append(&t, 1, 1).await], &[&to]).await;
    assert_eq!(report.gone, 1);
    assert_eq!(world.tables.connections.get(0, &to.id).await.unwrap(), None);
    let report = world.push(vec![world.append(&t, 2, 2).await], &[]).await;
    assert_eq!((report.gone, report.delivered), (0, 0));
}

#[tokio::test]
async fn unsubscribing_stops_events_and_lost_numbers_are_reported_as_gaps() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let stays = world.connect("stays").await;
    let leaves = world.connect("leaves").await;
    for to in [&stays, &leaves] {
        world.subscribe(to, &t).await;
    }
    world.push(vec![world.append(&t, 1, 1).await], &[&stays, &leaves]).await;
    world
        .tables
        .connections
        .leave(0, &leaves.id, &[t.clone()].into(), Timestamp::now())
        .await
        .unwrap();
    let lost = vec![Lost { topic: t.clone(), from: 2, to: 3 }];
    let entry = Entry::Lost { topic: t.clone(), seq: 2, last: 3 };
    world.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
    let frames = vec![world.append(&t, 4, 4).await];
    world.pusher.handle(Job { shard: 0, joined: vec![], lost, rules: 0, frames }).await.unwrap();
    assert_eq!(world.received(&stays), ["1", "gap 2-3", "4"]);
    assert_eq!(world.received(&leaves), ["1"]);
    let late = world.connect("late").await;
    world
        .send(&late, json!({"action": "subscribe", "topics": [t], "since": {t.as_str(): 0}}))
        .await;
    assert_eq!(world.received(&late), ["1", "gap 2-3", "4"], "a replay reports the gap too");
}
