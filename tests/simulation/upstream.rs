//! The upstreams: an exchange with trades and tickers, and a Mastodon server with posts.

mod connection;
mod exchange;
mod network;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use domain::{clock::Clock, entry::Entry, topic::Topic};
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

pub(crate) use self::network::{Faults, SimulatedNetwork};
use crate::trace::Trace;

/// How far back a delete goes.
const DELETES_BACK: usize = 20;

/// The start of the URI of each post.
const ORIGIN: &str = "https://origin.invalid/";

/// All events that the upstreams have. Clones share everything.
#[derive(Clone)]
pub(crate) struct Upstream {
    events: Arc<Mutex<Events>>,
    /// Changes with every event.
    moved: watch::Sender<()>,
    /// Whether the upstreams send nothing at present.
    is_silent: watch::Sender<bool>,
    faults: watch::Sender<Faults>,
    clock: Clock,
    trace: Trace,
}

#[derive(Default)]
struct Events {
    /// By topic of the exchange: the number of the newest trade or ticker.
    newest: BTreeMap<Topic, u64>,
    /// By topic of the exchange: the trades that its REST interface does not have.
    forgotten: BTreeMap<Topic, BTreeSet<u64>>,
    /// In the order of their ids.
    posts: Vec<Post>,
    /// What the stream of the server has sent.
    changes: Vec<Change>,
}

/// A post of the Mastodon server.
#[derive(Clone)]
struct Post {
    topic: Topic,
    number: u64,
    at: Timestamp,
    is_deleted: bool,
}

/// A change on the server's timeline, with the index of the post.
#[derive(Clone, Copy)]
enum Change {
    Posted(usize),
    Deleted(usize),
}

impl Upstream {
    pub(crate) fn new(clock: Clock, trace: Trace) -> Self {
        Self {
            events: Arc::default(),
            moved: watch::Sender::new(()),
            is_silent: watch::Sender::new(false),
            faults: watch::Sender::new(Faults::default()),
            clock,
            trace,
        }
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.faults.send_replace(faults);
    }

    /// Makes the upstreams silent, or ends that. They then send what there is.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.is_silent.send_replace(is_silent);
    }

    /// Adds an event to a topic.
    pub(crate) fn produce(&self, topic: &Topic) {
        {
            let mut events = self.events.lock();
            if topic.source() == "coinbase" {
                let newest = events.newest.entry(topic.clone()).or_default();
                *newest += 1;
                let number = *newest;
                if fastrand::f64() < self.faults.borrow().forgotten {
                    self.trace.count("upstreams: forgotten trades");
                    events.forgotten.entry(topic.clone()).or_default().insert(number);
                }
            } else {
                let index = events.posts.len();
                let number = index as u64 + 1;
                let at = self.clock.now();
                events.posts.push(Post { topic: topic.clone(), number, at, is_deleted: false });
                events.changes.push(Change::Posted(index));
            }
        }
        self.moved.send_replace(());
    }

    /// Deletes a recent post of a topic, if there is one.
    pub(crate) fn delete(&self, topic: &Topic, rng: &mut fastrand::Rng) {
        {
            let mut events = self.events.lock();
            let of_topic = |(_, post): &(usize, &Post)| post.topic == *topic && !post.is_deleted;
            let recent = events.posts.iter().enumerate().rev().filter(of_topic).take(DELETES_BACK);
            let recent: Vec<usize> = recent.map(|(index, _)| index).collect();
            let Some(index) = rng.choice(recent) else { return };
            events.posts[index].is_deleted = true;
            events.changes.push(Change::Deleted(index));
        }
        self.moved.send_replace(());
    }

    /// Returns the number of the newest event of a topic of the exchange.
    pub(crate) fn newest(&self, topic: &Topic) -> u64 {
        self.events.lock().newest.get(topic).copied().unwrap_or(0)
    }

    /// Returns the trades that the REST interface of the exchange does not have.
    pub(crate) fn forgotten(&self, topic: &Topic) -> BTreeSet<u64> {
        self.events.lock().forgotten.get(topic).cloned().unwrap_or_default()
    }

    /// Returns the numbers of the posts of a topic, and whether each is deleted.
    pub(crate) fn posts(&self, topic: &Topic) -> BTreeMap<u64, bool> {
        let events = self.events.lock();
        let posts = events.posts.iter().filter(|post| post.topic == *topic);
        posts.map(|post| (post.number, post.is_deleted)).collect()
    }
}

/// An event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Logged {
    /// A trade, or a ticker, with its number.
    Number(u64),
    /// A post.
    Posted(u64),
    /// The event that reports the deletion of a post, also in the place of the post.
    Deleted(u64),
}

/// Returns the events in a part of the log, with the time of each.
pub(crate) fn logged(entries: &[Entry]) -> Vec<(Timestamp, Logged)> {
    let mut logged = Vec::new();
    for entry in entries {
        let Entry::Frame(frame) = entry else { continue };
        for (_, event) in frame.events() {
            let event: Value = serde_json::from_slice(&event).unwrap();
            logged.push((frame.at(), Logged::read(&event).unwrap()));
        }
    }
    logged
}

impl Logged {
    /// Reads an event. Returns `None` if it does not come from an upstream.
    pub(crate) fn read(event: &Value) -> Option<Self> {
        let post = || event["id"].as_str()?.strip_prefix(ORIGIN)?.parse().ok();
        match event["type"].as_str()? {
            "match" | "last_match" => event["trade_id"].as_u64().map(Self::Number),
            "ticker" => event["sequence"].as_u64().map(Self::Number),
            "post" => post().map(Self::Posted),
            "post.deleted" => post().map(Self::Deleted),
            _ => None,
        }
    }
}

/// Returns the text of a post.
pub(crate) fn text(number: u64) -> String {
    format!("the text of post {number}.")
}
