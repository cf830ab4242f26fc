//! The upstreams: each topic has events that are counted from 1. A source that starts fetches what the log
//! does not have yet, as the one of Coinbase does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws::{error::StoreError, log::Log};
use domain::{entry::Entry, source::State, topic::Topic};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use poller::{
    feed::Feed,
    outgoing::{Outgoing, Role},
    source::Source,
};
use serde_json::{Value, json};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

use crate::expiry::Expired;

/// How far back a delete goes.
const DELETES_BACK: u64 = 20;

/// All events that the upstreams have.
#[derive(Clone)]
pub(crate) struct Upstream {
    topics: Arc<Mutex<BTreeMap<Topic, Events>>>,
    /// Whether it sends nothing at present.
    is_silent: watch::Sender<bool>,
}

struct Events {
    newest: watch::Sender<u64>,
    /// The deletes, by their number, and the numbers of the posts that they delete.
    deletes: BTreeMap<u64, u64>,
}

impl Upstream {
    pub(crate) fn new(topics: &[Topic]) -> Self {
        let events = |topic: &Topic| {
            let newest = watch::Sender::new(0);
            (topic.clone(), Events { newest, deletes: BTreeMap::new() })
        };
        let topics = Arc::new(Mutex::new(topics.iter().map(events).collect()));
        Self { topics, is_silent: watch::Sender::new(false) }
    }

    /// Makes the upstreams silent, or ends that. They then send what there is.
    pub(crate) fn set_silent(&self, is_silent: bool) {
        self.is_silent.send_replace(is_silent);
    }

    /// Adds an event to a topic.
    pub(crate) fn produce(&self, topic: &Topic) {
        self.topics.lock()[topic].newest.send_modify(|number| *number += 1);
    }

    /// Adds an event that deletes a recent post of a topic, if there is one.
    pub(crate) fn delete(&self, topic: &Topic, rng: &mut fastrand::Rng) {
        let mut topics = self.topics.lock();
        let events = topics.get_mut(topic).unwrap();
        let newest = *events.newest.borrow();
        let posts = newest.saturating_sub(DELETES_BACK) + 1..=newest;
        let is_post = |number: &u64| {
            !events.deletes.contains_key(number) && events.deletes.values().all(|it| it != number)
        };
        let posts: Vec<u64> = posts.filter(is_post).collect();
        if let Some(post) = rng.choice(posts) {
            events.deletes.insert(newest + 1, post);
            events.newest.send_modify(|number| *number += 1);
        }
    }

    /// Returns the number of the newest event of a topic.
    pub(crate) fn newest(&self, topic: &Topic) -> u64 {
        *self.topics.lock()[topic].newest.borrow()
    }

    /// Returns the posts of a topic that were deleted.
    pub(crate) fn deleted(&self, topic: &Topic) -> Vec<u64> {
        self.topics.lock()[topic].deletes.values().copied().collect()
    }

    fn follow(&self, topic: &Topic) -> watch::Receiver<u64> {
        self.topics.lock()[topic].newest.subscribe()
    }

    /// Returns the event with this number.
    fn event(&self, topic: &Topic, number: u64) -> Outgoing {
        if topic.source() != "mastodon" {
            return Outgoing::plain(json!({"number": number}).to_string());
        }
        let uri = |number: u64| format!("https://simulated.invalid/{topic}/{number}");
        let deletes = self.topics.lock()[topic].deletes.get(&number).copied();
        let (event, role) = match deletes {
            Some(post) => (
                json!({"type": "post.deleted", "id": uri(post), "number": number, "deletes": post}),
                Role::Deleted(uri(post).into()),
            ),
            None => (
                json!({"type": "post", "id": uri(number), "number": number, "text": text(number)}),
                Role::Posted(uri(number).into()),
            ),
        };
        Outgoing::new(event.to_string(), role)
    }
}

/// Returns the text of a post.
pub(crate) fn text(number: u64) -> String {
    format!("the text of post {number}.")
}

/// Returns the numbers that the upstream gave the events in a part of the log. In the place of a post that
/// was deleted, the log has the event that deletes it.
pub(crate) fn numbers(entries: &[Entry]) -> Vec<u64> {
    let mut numbers = Vec::new();
    for entry in entries {
        let Entry::Frame(frame) = entry else { continue };
        for (_, event) in frame.events() {
            let event: Value = serde_json::from_slice(&event).unwrap();
            let number = event["number"].as_u64().unwrap();
            let is_in_place_of = |post: &u64| numbers.last().is_none_or(|last| last < post);
            let post = event["deletes"].as_u64().filter(is_in_place_of);
            numbers.push(post.unwrap_or(number));
        }
    }
    numbers
}

/// The source of one family.
pub(crate) struct SimulatedSource {
    pub(crate) family: &'static str,
    pub(crate) topics: Vec<Topic>,
    pub(crate) upstream: Upstream,
    pub(crate) log: Log,
    pub(crate) expired: Expired,
}

impl SimulatedSource {
    async fn follow(&self, topic: &Topic, feed: &Feed) {
        let mut newest = self.upstream.follow(topic);
        let mut last = loop {
            match self.last(topic, feed).await {
                Ok(last) => break last,
                Err(_) => time::sleep(Duration::from_millis(200)).await,
            }
        };
        let mut is_silent = self.upstream.is_silent.subscribe();
        loop {
            is_silent.wait_for(|is_silent| !is_silent).await.unwrap();
            let number = *newest.borrow_and_update();
            for number in last + 1..=number {
                feed.publish(topic, self.upstream.event(topic, number));
            }
            last = last.max(number);
            if newest.changed().await.is_err() {
                return;
            }
        }
    }

    /// Returns the number of the newest event that is in the log, or was.
    async fn last(&self, topic: &Topic, feed: &Feed) -> Result<u64, StoreError> {
        // From here on, earlier leaders cannot append.
        feed.newest(topic).await?;
        // Expired entries count too.
        let now = Timestamp::UNIX_EPOCH;
        let entries = self.log.read(topic, 1, u64::MAX, usize::MAX, now).await?;
        Ok(numbers(&self.expired.restore(topic, &entries)).last().copied().unwrap_or(0))
    }

    /// Reports whether the upstream is silent.
    async fn report(&self, feed: &Feed) {
        let mut is_silent = self.upstream.is_silent.subscribe();
        loop {
            let state = if *is_silent.borrow_and_update() { State::Down } else { State::Live };
            feed.report(state, "");
            is_silent.changed().await.unwrap();
        }
    }
}

impl Source for SimulatedSource {
    fn name(&self) -> &str {
        self.family
    }

    fn run(&self, feed: Feed, shutdown: CancellationToken) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let following = self.topics.iter().map(|topic| self.follow(topic, &feed));
            let following = futures_util::future::join_all(following.collect::<Vec<_>>());
            let following = async { tokio::join!(following, self.report(&feed)) };
            shutdown.run_until_cancelled(following).await;
        })
    }
}
