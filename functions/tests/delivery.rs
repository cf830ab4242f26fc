//! Subscribing and pushing on the embedded database, with a gateway that takes what it is told to.

#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::{BTreeMap, HashSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use aws::{
    clients::{Clients, TableOptions},
    connections::Connection,
    log::Entry,
    post::{Post, PostError, Recipient},
    push::{Job, Lost},
    tables::Tables,
};
use bytes::Bytes;
use clap::Parser as _;
use domain::{
    access::Principal, connection::ConnectionId, frame::Frame, policy::SetText, topic::Topic,
};
use dynamo::Engine;
use functions::{
    app::{App, Options},
    connection::subscribe::Start,
    push::Pusher,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use secrecy::SecretString;
use serde_json::Value;

/// A gateway that notes what it is given.
#[derive(Default)]
struct Gateway {
    taken: Mutex<Vec<(ConnectionId, Bytes)>>,
    busy: Mutex<HashSet<ConnectionId>>,
    gone: Mutex<HashSet<ConnectionId>>,
}

impl Post for Gateway {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, PostError)>> {
        let failed = recipients.iter().enumerate().filter_map(|(index, Recipient { id, .. })| {
            if self.gone.lock().unwrap().contains(id) {
                return Some((index, PostError::Gone));
            }
            if self.busy.lock().unwrap().contains(id) {
                return Some((index, PostError::Busy));
            }
            self.taken.lock().unwrap().push((id.clone(), message.clone()));
            None
        });
        let failed = failed.collect();
        Box::pin(async { failed })
    }

    fn close<'a>(&'a self, _: &'a Recipient) -> BoxFuture<'a, Result<(), PostError>> {
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
        let (rules, clock) = (app.rules.clone(), Arc::new(Timestamp::now));
        let pusher = Pusher::new(&tables, gateway.clone(), rules, clock);
        Self { tables, gateway, app, pusher }
    }

    async fn connect(&self, id: &str) -> Recipient {
        let to = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new(id) };
        let now = Timestamp::now();
        let open = Connection::open(to.clone(), 0, Principal::anonymous(), now);
        self.tables.connections.open(&open).await.unwrap();
        to
    }

    async fn subscribe(&self, to: &Recipient, topic: &Topic, start: Start) {
        let wishes = BTreeMap::from([(topic.clone(), start)]);
        let connection = self.tables.connections.get(0, &to.id).await.unwrap().unwrap();
        self.app.subscribe(&connection, &wishes, Some(None), Timestamp::now()).await.unwrap();
    }

    /// Appends events whose texts are their numbers.
    async fn append(&self, topic: &Topic, from: u64, to: u64) -> Frame {
        let events: Vec<String> = (from..=to).map(|n| n.to_string()).collect();
        let frame = Frame::new(topic.clone(), from, Timestamp::now(), &events);
        let entry = Entry::Frame(frame.clone());
        self.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
        frame
    }

    async fn push(&self, frames: Vec<Frame>, joined: &[&Recipient]) -> aws::push::Report {
        let joined = joined.iter().map(|to| to.id.clone()).collect();
        self.pusher.handle(Job { shard: 0, joined, lost: vec![], rules: 0, frames }).await.unwrap()
    }

    /// The events and gaps that a connection got, in order.
    fn got(&self, to: &Recipient) -> Vec<String> {
        let taken = self.gateway.taken.lock().unwrap();
        let messages = taken.iter().filter(|(id, _)| *id == to.id);
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
                                assert_eq!(event, seq, "an event has its number");
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
async fn a_subscriber_gets_every_number_from_its_start() {
    let world = World::new().await;
    let t = topic("coinbase/matches/BTC-USD");
    world.append(&t, 1, 5).await;
    let since = world.connect("since").await;
    let newest = world.connect("newest").await;
    let last = world.connect("last").await;
    world.subscribe(&since, &t, Start::After(2)).await;
    world.subscribe(&newest, &t, Start::Newest).await;
    world.subscribe(&last, &t, Start::Last(1)).await;
    // A poller that does not know them yet sends nothing; then it sends what comes next.
    world.append(&t, 6, 7).await;
    let frame = world.append(&t, 8, 8).await;
    world.push(vec![frame.clone()], &[]).await;
    world.push(vec![world.append(&t, 9, 9).await], &[&since, &newest, &last]).await;
    assert_eq!(world.got(&since), ["3", "4", "5", "6", "7", "8", "9"]);
    assert_eq!(world.got(&newest), ["6", "7", "8", "9"]);
    assert_eq!(world.got(&last), ["5", "6", "7", "8", "9"]);
}

#[tokio::test]
async fn what_came_before_the_poller_knew_is_sent_even_if_nothing_follows() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t, Start::Newest).await;
    world.append(&t, 1, 2).await;
    world.push(vec![], &[]).await;
    assert_eq!(world.got(&to), Vec::<String>::new(), "nobody knows that it is all");
    world.push(vec![], &[&to]).await;
    assert_eq!(world.got(&to), ["1", "2"]);
    world.push(vec![], &[&to]).await;
    assert_eq!(world.got(&to), ["1", "2"], "once");
}

#[tokio::test]
async fn equal_wishes_share_one_message() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let (a, b, c) = (world.connect("a").await, world.connect("b").await, world.connect("c").await);
    for to in [&a, &b] {
        world.subscribe(to, &t, Start::Newest).await;
    }
    world.subscribe(&c, &topic("system/sources"), Start::Newest).await;
    world.push(vec![], &[&a, &b, &c]).await;
    world.gateway.taken.lock().unwrap().clear();
    let report = world.push(vec![world.append(&t, 1, 1).await], &[]).await;
    assert_eq!(report.delivered, 2);
    let taken = world.gateway.taken.lock().unwrap();
    assert_eq!(taken.len(), 2, "{taken:?}");
    assert_eq!(taken[0].1.as_ptr(), taken[1].1.as_ptr(), "the bytes are the same");
}

#[tokio::test]
async fn a_slow_connection_delays_nobody_and_learns_what_it_missed() {
    let world = World::new().await;
    let (lossless, ticker) = (topic("mastodon/public"), topic("coinbase/ticker/BTC-USD"));
    let (slow, quick) = (world.connect("slow").await, world.connect("quick").await);
    for to in [&slow, &quick] {
        world.subscribe(to, &lossless, Start::Newest).await;
        world.subscribe(to, &ticker, Start::Newest).await;
    }
    world.push(vec![], &[&slow, &quick]).await;
    world.gateway.busy.lock().unwrap().insert(slow.id.clone());
    for n in 1..=3 {
        let frames = vec![world.append(&lossless, n, n).await, world.append(&ticker, n, n).await];
        let report = world.push(frames, &[]).await;
        assert_eq!((report.delivered, report.waiting), (1, 1));
    }
    world.gateway.busy.lock().unwrap().clear();
    let report = world.push(vec![], &[]).await;
    assert_eq!(report.waiting, 0);
    assert_eq!(world.got(&quick), ["1", "1", "2", "2", "3", "3"]);
    assert_eq!(world.got(&slow), ["gap 1-2", "1", "2", "3", "3"], "only the newest tick");
    world.push(vec![world.append(&lossless, 4, 4).await], &[]).await;
    assert_eq!(world.got(&slow).last().unwrap(), "4", "it is one of many again");
}

#[tokio::test]
async fn a_connection_that_is_gone_is_forgotten() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let to = world.connect("a").await;
    world.subscribe(&to, &t, Start::Newest).await;
    world.gateway.gone.lock().unwrap().insert(to.id.clone());
    let report = world.push(vec![world.append(&t, 1, 1).await], &[&to]).await;
    assert_eq!(report.gone, 1);
    assert_eq!(world.tables.connections.get(0, &to.id).await.unwrap(), None);
    let report = world.push(vec![world.append(&t, 2, 2).await], &[]).await;
    assert_eq!((report.gone, report.delivered), (0, 0));
}

#[tokio::test]
async fn who_leaves_gets_nothing_more_and_lost_numbers_are_told() {
    let world = World::new().await;
    let t = topic("mastodon/public");
    let (stays, leaves) = (world.connect("stays").await, world.connect("leaves").await);
    for to in [&stays, &leaves] {
        world.subscribe(to, &t, Start::Newest).await;
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
    assert_eq!(world.got(&stays), ["1", "gap 2-3", "4"]);
    assert_eq!(world.got(&leaves), ["1"]);
    let late = world.connect("late").await;
    world.subscribe(&late, &t, Start::After(0)).await;
    assert_eq!(world.got(&late), ["1", "gap 2-3", "4"], "a replay tells them too");
}
