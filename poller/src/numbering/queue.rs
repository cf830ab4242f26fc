//! The queue: the events of each topic that have no number yet.

use std::collections::HashMap;

use domain::{entry::Entry, topic::Topic};
use parking_lot::Mutex;
use tokio::sync::{Notify, futures::Notified};
use tracing::{debug, warn};

use crate::outgoing::Outgoing;

/// The pending events of all topics.
pub(super) struct Queue {
    /// Most bytes of events that are pending.
    memory_bytes: usize,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<Topic, Pending>,
    /// Topics that have something to append and no append in flight.
    ready: Vec<Topic>,
    bytes: usize,
}

/// The pending events of one topic.
#[derive(Default)]
struct Pending {
    events: Vec<Outgoing>,
    bytes: usize,
    /// How many events were dropped. They were older than all pending ones.
    dropped: u64,
    queued: bool,
    in_flight: bool,
    /// The end of the topic in the log, if it is known.
    head: Option<Head>,
    /// How often the head was forgotten, so that an append in flight does not restore it.
    generation: u64,
}

/// The end of a topic in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of the next event.
    pub(super) next: u64,
    /// The number of the newest snapshot.
    pub(super) snapshot: Option<u64>,
    /// The last number that is reserved.
    pub(super) reserved: u64,
}

/// The part of a round that belongs to one topic.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) topic: Topic,
    pub(super) head: Option<Head>,
    pub(super) generation: u64,
    pub(super) dropped: u64,
    pub(super) events: Vec<Outgoing>,
}

/// The result of appending a [`Batch`].
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) topic: Topic,
    pub(super) head: Option<Head>,
    pub(super) generation: u64,
    pub(super) entries: Vec<Entry>,
    /// The posts among the events, with their numbers.
    pub(super) posts: Vec<(u64, Outgoing)>,
}

impl Queue {
    /// Makes an empty queue that holds up to `memory_bytes` of events.
    pub(super) fn new(memory_bytes: usize) -> Self {
        Self { memory_bytes, state: Mutex::default(), wake: Notify::new() }
    }

    /// Waits until a topic is ready.
    pub(super) fn ready(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Adds an event to the pending events of a topic. On a topic that conflates, it replaces them.
    pub(super) fn publish(&self, topic: &Topic, event: Outgoing) {
        let bytes = event.json.len();
        let mut state = self.state.lock();
        let State { topics, ready, bytes: total } = &mut *state;
        let pending = match topics.get_mut(topic) {
            Some(pending) => pending,
            None => topics.entry(topic.clone()).or_default(),
        };
        if topic.kind().conflates() {
            *total -= pending.bytes;
            pending.bytes = 0;
            pending.events.clear();
        }
        pending.events.push(event);
        pending.bytes += bytes;
        *total += bytes;
        let wake = !pending.queued && !pending.in_flight;
        if wake {
            pending.queued = true;
            ready.push(topic.clone());
        }
        if *total > self.memory_bytes {
            state.shed();
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Drops all pending events of a family's topics, and forgets where the topics end.
    pub(super) fn forget(&self, family: &str) {
        let mut state = self.state.lock();
        let State { topics, bytes, .. } = &mut *state;
        for (topic, pending) in topics.iter_mut().filter(|(topic, _)| topic.source() == family) {
            if !pending.events.is_empty() {
                debug!(%topic, events = pending.events.len(), "dropped the pending events");
            }
            *bytes -= pending.bytes;
            pending.events.clear();
            pending.bytes = 0;
            pending.dropped = 0;
            pending.head = None;
            pending.generation += 1;
        }
    }

    /// Takes all pending events of the topics that are ready. Each of these topics is in flight until
    /// [`Self::finish`].
    pub(super) fn take_ready(&self) -> Vec<Batch> {
        let mut state = self.state.lock();
        let State { topics, ready, bytes } = &mut *state;
        let mut batches = Vec::with_capacity(ready.len());
        for topic in ready.drain(..) {
            let Some(pending) = topics.get_mut(&topic) else { continue };
            pending.queued = false;
            if pending.events.is_empty() && pending.dropped == 0 {
                continue;
            }
            pending.in_flight = true;
            *bytes -= pending.bytes;
            pending.bytes = 0;
            batches.push(Batch {
                topic,
                head: pending.head,
                generation: pending.generation,
                dropped: std::mem::take(&mut pending.dropped),
                events: std::mem::take(&mut pending.events),
            });
        }
        batches
    }

    /// Ends the append of a topic, which makes its next events ready.
    pub(super) fn finish(&self, appended: &Appended) {
        let mut state = self.state.lock();
        let State { topics, ready, .. } = &mut *state;
        let Some(pending) = topics.get_mut(&appended.topic) else { return };
        pending.in_flight = false;
        if pending.generation == appended.generation {
            pending.head = appended.head;
        }
        let more = !pending.queued && (!pending.events.is_empty() || pending.dropped > 0);
        if more {
            pending.queued = true;
            ready.push(appended.topic.clone());
        }
        drop(state);
        if more {
            self.wake.notify_one();
        }
    }

    /// Returns whether no topic is in flight.
    pub(super) fn is_idle(&self) -> bool {
        self.state.lock().topics.values().all(|pending| !pending.in_flight)
    }

    /// Returns the last number of each topic whose end is known.
    pub(super) fn last_numbers(&self) -> Vec<(Topic, u64)> {
        let state = self.state.lock();
        let heads = state.topics.iter().filter_map(|(topic, it)| Some((topic, it.head?)));
        heads.map(|(topic, head)| (topic.clone(), head.next - 1)).collect()
    }
}

impl State {
    /// Drops the older half of the pending events of the topic with the most bytes. Topics that
    /// conflate have one event each, so they are skipped.
    fn shed(&mut self) {
        let lossless = self.topics.iter_mut().filter(|(topic, _)| !topic.kind().conflates());
        let Some((topic, pending)) = lossless.max_by_key(|(_, pending)| pending.bytes) else {
            return;
        };
        let count = pending.events.len().div_ceil(2);
        let bytes: usize = pending.events.drain(..count).map(|event| event.json.len()).sum();
        warn!(%topic, events = count, "dropped the oldest pending events: the backlog for the database is too large");
        pending.dropped += count as u64;
        pending.bytes -= bytes;
        self.bytes -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time;

    use super::*;

    fn topic(text: &str) -> Topic {
        Topic::parse(text).expect("a topic")
    }

    fn matches() -> Topic {
        topic("coinbase/matches/BTC-USD")
    }

    fn event(text: &str) -> Outgoing {
        Outgoing::plain(text.to_owned())
    }

    fn texts(batch: &Batch) -> Vec<&str> {
        batch.events.iter().map(|it| std::str::from_utf8(&it.json).expect("UTF-8")).collect()
    }

    fn appended(batch: &Batch, head: Option<Head>) -> Appended {
        Appended {
            topic: batch.topic.clone(),
            head,
            generation: batch.generation,
            entries: vec![],
            posts: vec![],
        }
    }

    fn head(next: u64) -> Head {
        Head { next, snapshot: None, reserved: 100 }
    }

    /// Whether the queue asks for a round within a second.
    async fn is_woken(queue: &Queue) -> bool {
        time::timeout(Duration::from_secs(1), queue.ready()).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_topic_has_one_append_in_flight_and_gathers_events_meanwhile() {
        let queue = Queue::new(1_000);
        assert!(!is_woken(&queue).await);
        queue.publish(&matches(), event("1"));
        queue.publish(&matches(), event("2"));
        assert!(is_woken(&queue).await);
        let first = queue.take_ready().pop().expect("a batch");
        assert_eq!(texts(&first), ["1", "2"]);
        queue.publish(&matches(), event("3"));
        assert!(!is_woken(&queue).await, "an append is in flight");
        assert!(queue.take_ready().is_empty() && !queue.is_idle());
        queue.finish(&appended(&first, Some(head(3))));
        assert!(is_woken(&queue).await);
        let second = queue.take_ready().pop().expect("a batch");
        assert_eq!((texts(&second), second.head), (vec!["3"], Some(head(3))));
        queue.finish(&appended(&second, Some(head(4))));
        assert!(queue.is_idle() && queue.take_ready().is_empty());
        assert_eq!(queue.last_numbers(), [(matches(), 3)]);
    }

    #[test]
    fn a_conflating_topic_keeps_only_the_newest_event() {
        let queue = Queue::new(1_000);
        let ticker = topic("coinbase/ticker/BTC-USD");
        for text in ["1", "2", "3"] {
            queue.publish(&ticker, event(text));
        }
        let batch = queue.take_ready().pop().expect("a batch");
        assert_eq!((texts(&batch), batch.dropped), (vec!["3"], 0));
    }

    #[test]
    fn a_full_queue_drops_the_older_half_of_the_largest_lossless_topic() {
        let queue = Queue::new(40);
        let small = topic("coinbase/matches/ETH-USD");
        queue.publish(&small, event("small"));
        queue.publish(&topic("coinbase/ticker/BTC-USD"), event("ticker"));
        for text in ["event-0001", "event-0002", "event-0003"] {
            queue.publish(&matches(), event(text));
        }
        let batches = queue.take_ready();
        let of = |topic: &Topic| batches.iter().find(|it| it.topic == *topic).expect("a batch");
        assert_eq!((texts(of(&matches())), of(&matches()).dropped), (vec!["event-0003"], 2));
        assert_eq!((texts(of(&small)), of(&small).dropped), (vec!["small"], 0));
    }

    #[test]
    fn a_lost_lease_drops_pending_events_and_the_head_of_an_append_in_flight() {
        let queue = Queue::new(1_000);
        queue.publish(&matches(), event("1"));
        queue.publish(&topic("mastodon/public"), event("post"));
        let batches = queue.take_ready();
        queue.publish(&matches(), event("2"));
        queue.publish(&topic("mastodon/public"), event("another"));
        queue.forget("coinbase");
        for batch in &batches {
            queue.finish(&appended(batch, Some(head(2))));
        }
        let batches = queue.take_ready();
        let rest: Vec<_> =
            batches.iter().map(|it| (it.topic.as_str(), texts(it), it.head)).collect();
        assert_eq!(rest, [("mastodon/public", vec!["another"], Some(head(2)))]);
        assert_eq!(queue.last_numbers(), [(topic("mastodon/public"), 1)]);
    }
}
