//! A feed for tests, and a record of what a source does with it.

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use aws::{
    clients::{Clients, TableOptions},
    control::Product,
    tables::Tables,
};
use domain::{
    clock::Clock,
    entry::Entry,
    frame::Frame,
    provenance::Provenance,
    source::{SourceState, State},
    topic::Topic,
};
use dynamo::Engine;
use jiff::Timestamp;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant},
};

use super::upstream::NAME;
use crate::{
    feed::Feed,
    leadership::Leadership,
    numbering::{Numbering, Options},
    states::States,
    wanted::Wanted,
};

/// How long a test waits for anything before it fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that has to happen.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    time::timeout(PATIENCE, future).await.expect("it happens")
}

/// The test's end of a feed: it decides what is wanted, and sees what is published.
pub(super) struct Recorder {
    wanted: watch::Sender<Arc<Wanted>>,
    events: mpsc::UnboundedReceiver<Value>,
    state: watch::Receiver<Option<SourceState>>,
    tables: Tables,
}

impl Recorder {
    /// Makes a feed over an empty database in memory.
    pub(super) async fn start() -> (Feed, Self) {
        let engine = Engine::open(None).expect("a database");
        let options =
            TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
        let tables = Clients::from_config(engine.sdk_config()).tables(&options);
        tables.create_missing().await.expect("tables");

        let (want, wanted) = watch::channel(Arc::default());
        let options = Options { flush: Duration::ZERO, memory_bytes: usize::MAX };
        let log = tables.log.clone();
        let control = tables.control.clone();
        let leadership = Leadership::default();
        let term = Duration::from_hours(1);
        let lease = control.acquire("coinbase", "test", term, Timestamp::now()).await;
        let lease = lease.expect("a response").expect("the lease is free");
        leadership.add(lease, Instant::now() + term);
        let numbering = Numbering::new(
            log.clone(),
            control.clone(),
            leadership,
            Clock::new(Timestamp::now),
            options,
        );
        let states = States::new(
            Provenance::Live,
            control.clone(),
            numbering.clone(),
            Clock::new(Timestamp::now),
        );
        let feed = Feed::new(NAME, 1, wanted, numbering.clone(), states, log, control);

        let (publish, events) = mpsc::unbounded_channel();
        let (report, state) = watch::channel(None);
        tokio::spawn(async move {
            loop {
                for (topic, event) in numbering.take_pending().await {
                    if topic == Topic::system_sources() {
                        let state = serde_json::from_slice(&event.json).expect("a state");
                        report.send_replace(Some(state));
                    } else {
                        let json = serde_json::from_slice(&event.json).expect("JSON");
                        // The test may have ended.
                        let _ = publish.send(json);
                    }
                }
            }
        });
        (feed, Self { wanted: want, events, state, tables })
    }

    /// Sets the wanted topics.
    pub(super) fn want(&self, names: &[&str]) {
        let topics = names.iter().map(|name| Topic::parse(name).expect("a topic")).collect();
        self.wanted.send_replace(Arc::new(topics));
    }

    /// Puts an event in the log.
    pub(super) async fn log(&self, topic: &str, event: &Value) {
        let topic = Topic::parse(topic).expect("a topic");
        let now = Timestamp::now();
        let frame = Frame::new(topic, 1, now, &[event.to_string()]);
        self.tables.log.append(&Entry::Frame(frame), None, now).await.expect("appended");
    }

    /// Reports events as lost in the log.
    pub(super) async fn lose(&self, topic: &str, numbers: RangeInclusive<u64>) {
        let (seq, last) = numbers.into_inner();
        let lost = Entry::Lost {
            topic: Topic::parse(topic).expect("a topic"),
            seq,
            last,
            is_logged: false,
        };
        self.tables.log.append(&lost, None, Timestamp::now()).await.expect("appended");
    }

    /// Waits for the next event.
    pub(super) async fn event(&mut self) -> Value {
        soon(self.events.recv()).await.expect("an event")
    }

    /// Waits for the next trades and returns their ids.
    pub(super) async fn trades(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(self.event().await["trade_id"].as_u64());
        }
        ids
    }

    /// Waits for a state whose detail contains `words`.
    pub(super) async fn state(&mut self, state: State, words: &str) {
        let is_it = |reported: &Option<SourceState>| {
            reported.as_ref().is_some_and(|it| it.state == state && it.detail.contains(words))
        };
        let is_reported = time::timeout(PATIENCE, self.state.wait_for(is_it)).await.is_ok();
        assert!(is_reported, "expected {state:?} {words:?}, got {:?}", self.state.borrow());
    }

    /// Waits until the catalog of products is stored, and returns it.
    pub(super) async fn products(&self) -> Vec<Product> {
        let stored = async {
            loop {
                if let Some(products) = self.tables.control.products(NAME).await.expect("read") {
                    break products;
                }
                time::sleep(Duration::from_millis(10)).await;
            }
        };
        soon(stored).await
    }
}
