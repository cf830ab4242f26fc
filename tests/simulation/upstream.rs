//! The upstreams: each topic has events with increasing ids. A source that starts fetches what the log
//! does not have yet, as the one of Coinbase does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use domain::topic::Topic;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use poller::{feed::Feed, outgoing::Outgoing, source::Source};
use serde_json::{Value, json};
use tokio::{sync::watch, time};
use tokio_util::sync::CancellationToken;

/// All events that the upstreams have.
#[derive(Clone)]
pub(crate) struct Upstream(Arc<Mutex<BTreeMap<Topic, Events>>>);

struct Events {
    newest: watch::Sender<u64>,
}

impl Upstream {
    pub(crate) fn new(topics: &[Topic]) -> Self {
        let events = |topic: &Topic| (topic.clone(), Events { newest: watch::Sender::new(0) });
        Self(Arc::new(Mutex::new(topics.iter().map(events).collect())))
    }

    /// Adds an event to a topic.
    pub(crate) fn produce(&self, topic: &Topic) {
        self.0.lock()[topic].newest.send_modify(|id| *id += 1);
    }

    /// Returns the id of the newest event of a topic.
    pub(crate) fn newest(&self, topic: &Topic) -> u64 {
        *self.0.lock()[topic].newest.borrow()
    }

    fn follow(&self, topic: &Topic) -> watch::Receiver<u64> {
        self.0.lock()[topic].newest.subscribe()
    }
}

/// The source of one family.
pub(crate) struct SimulatedSource {
    pub(crate) family: &'static str,
    pub(crate) topics: Vec<Topic>,
    pub(crate) upstream: Upstream,
}

impl SimulatedSource {
    async fn follow(&self, topic: &Topic, feed: &Feed) {
        let mut newest = self.upstream.follow(topic);
        let mut last = loop {
            match feed.newest(topic).await {
                Ok(frame) => {
                    let event = frame.and_then(|frame| Some(frame.events().last()?.1.clone()));
                    let event = event.map(|json| serde_json::from_slice::<Value>(&json).unwrap());
                    break event.and_then(|event| event["id"].as_u64()).unwrap_or(0);
                }
                Err(_) => time::sleep(Duration::from_millis(200)).await,
            }
        };
        loop {
            let id = *newest.borrow_and_update();
            for id in last + 1..=id {
                feed.publish(topic, Outgoing::plain(json!({"id": id}).to_string()));
            }
            last = last.max(id);
            if newest.changed().await.is_err() {
                return;
            }
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
            shutdown.run_until_cancelled(following).await;
        })
    }
}
