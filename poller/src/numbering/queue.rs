//! The queue: the events of each topic that have no number yet.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use domain::{entry::Entry, topic::Topic};
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, futures::Notified},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::outgoing::{Outgoing, Role};

/// Most bytes of events in a batch, except that a single event can be larger. The memory of a batch is
/// free only when all of it is appended.
const BATCH_BYTES: usize = 1024 * 1024;

/// The pending events of all topics.
pub(super) struct Queue {
    /// Most bytes of events that are pending or in flight.
    memory_bytes: usize,
    state: Mutex<State>,
    wake: Notify,
}

#[derive(Default)]
struct State {
    topics: HashMap<Topic, Pending>,
    /// Topics that have something to append and no append in flight.
    ready: Vec<Topic>,
    /// Bytes of all events that are pending or in flight.
    bytes: usize,
    /// Deletes that were dropped. They still have to be carried out.
    spilled: Vec<(Topic, Outgoing)>,
}

/// The pending events of one topic.
#[derive(Default)]
struct Pending {
    events: VecDeque<Outgoing>,
    bytes: usize,
    queued: bool,
    in_flight: bool,
    /// The end of the topic in the log, if it is known.
    head: Option<Head>,
    /// When the last append ended.
    appended_at: Option<Instant>,
    /// Ends when this poller no longer leads the topic. A batch in flight ends with it.
    term: CancellationToken,
}

/// The end of a topic in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The number of the next event.
    pub(super) next: u64,
    /// The number of the newest snapshot.
    pub(super) snapshot: Option<u64>,
    /// The last number that this poller has reserved.
    pub(super) reserved: u64,
}

/// The part of a round that belongs to one topic.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) topic: Topic,
    pub(super) head: Option<Head>,
    pub(super) term: CancellationToken,
    pub(super) events: VecDeque<Outgoing>,
    /// The bytes of the events.
    pub(super) bytes: usize,
}

/// The result of appending a [`Batch`].
#[derive(Debug)]
pub(super) struct Appended {
    pub(super) topic: Topic,
    pub(super) head: Option<Head>,
    pub(super) term: CancellationToken,
    pub(super) entries: Vec<Entry>,
    /// The edits and deletes of posts among the events.
    pub(super) changes: Vec<Outgoing>,
    /// The events that were not appended, because the term has ended.
    pub(super) unwritten: VecDeque<Outgoing>,
    /// The bytes of the events of the batch.
    pub(super) bytes: usize,
}

impl Queue {
    /// Makes an empty queue that holds up to `memory_bytes` of events.
    pub(super) fn new(memory_bytes: usize) -> Self {
        Self { memory_bytes, state: Mutex::default(), wake: Notify::new() }
    }

    /// Waits until a topic is ready, or a delete was dropped.
    pub(super) fn ready(&self) -> Notified<'_> {
        self.wake.notified()
    }

    /// Adds an event to the pending events of a topic. On a topic that conflates, it replaces them.
    pub(super) fn publish(&self, topic: &Topic, event: Outgoing) {
        let bytes = event.json.len();
        let mut state = self.state.lock();
        let State { topics, ready, bytes: total, .. } = &mut *state;
        let pending = match topics.get_mut(topic) {
            Some(pending) => pending,
            None => topics.entry(topic.clone()).or_default(),
        };
        if topic.kind().conflates() {
            *total -= pending.bytes;
            pending.bytes = 0;
            pending.events.clear();
        }
        pending.push(event);
        pending.bytes += bytes;
        *total += bytes;
        let mut wake = !pending.queued && !pending.in_flight;
        if wake {
            pending.queued = true;
            ready.push(topic.clone());
        }
        if *total > self.memory_bytes {
            state.shed();
            wake |= !state.spilled.is_empty();
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Drops all pending events of a family's topics, and ends their term.
    pub(super) fn forget(&self, family: &str) {
        let mut state = self.state.lock();
        let State { topics, bytes, spilled, .. } = &mut *state;
        for (topic, pending) in topics.iter_mut().filter(|(topic, _)| topic.source() == family) {
            if !pending.events.is_empty() {
                debug!(%topic, events = pending.events.len(), "dropped the pending events");
            }
            *bytes -= pending.bytes;
            spilled.extend(deletes(topic, pending.events.drain(..)));
            pending.bytes = 0;
            pending.head = None;
            std::mem::take(&mut pending.term).cancel();
        }
        drop(state);
        self.wake.notify_one();
    }

    /// Takes pending events of the topics that are ready. Each of these topics is in flight until
    /// [`Self::finish`].
    pub(super) fn take_ready(&self) -> Vec<Batch> {
        let mut state = self.state.lock();
        let State { topics, ready, .. } = &mut *state;
        let mut batches = Vec::with_capacity(ready.len());
        for topic in ready.drain(..) {
            let Some(pending) = topics.get_mut(&topic) else { continue };
            pending.queued = false;
            if pending.events.is_empty() {
                continue;
            }
            batches.push(pending.take(topic));
        }
        batches
    }

    /// Takes the topics whose reserved numbers are to be returned, because nothing was appended for
    /// `silence`. Each of these topics is in flight until [`Self::finish`].
    pub(super) fn take_silent(&self, silence: Duration) -> Vec<Batch> {
        let mut state = self.state.lock();
        let silent = state.topics.iter_mut().filter(|(_, pending)| {
            let is_open = pending.head.is_some_and(|head| head.reserved != head.next - 1);
            is_open
                && !pending.in_flight
                && !pending.queued
                && pending.appended_at.is_some_and(|at| at.elapsed() >= silence)
        });
        silent.map(|(topic, pending)| pending.take(topic.clone())).collect()
    }

    /// Takes the deletes that were dropped.
    pub(super) fn take_spilled(&self) -> Vec<(Topic, Outgoing)> {
        std::mem::take(&mut self.state.lock().spilled)
    }

    /// Ends the append of a topic, which makes its next events ready.
    pub(super) fn finish(&self, appended: &mut Appended) {
        let mut state = self.state.lock();
        let State { topics, ready, bytes, spilled } = &mut *state;
        *bytes -= appended.bytes;
        spilled.extend(deletes(&appended.topic, appended.unwritten.drain(..)));
        let mut wake = !spilled.is_empty();
        let Some(pending) = topics.get_mut(&appended.topic) else { return };
        pending.in_flight = false;
        if !appended.term.is_cancelled() {
            pending.head = appended.head;
        }
        if !appended.entries.is_empty() {
            pending.appended_at = Some(Instant::now());
        }
        if !pending.queued && !pending.events.is_empty() {
            pending.queued = true;
            ready.push(appended.topic.clone());
            wake = true;
        }
        drop(state);
        if wake {
            self.wake.notify_one();
        }
    }

    /// Returns whether an append of a topic is in flight.
    pub(super) fn is_in_flight(&self, topic: &Topic) -> bool {
        self.state.lock().topics.get(topic).is_some_and(|pending| pending.in_flight)
    }

    /// Returns whether no topic is in flight.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        state.spilled.is_empty() && state.topics.values().all(|pending| !pending.in_flight)
    }
}

impl Pending {
    /// Adds an event. Losses in a row become one.
    fn push(&mut self, event: Outgoing) {
        match (self.events.back_mut().map(|last| &mut last.role), &event.role) {
            (Some(Role::Lost(before)), Role::Lost(more)) => *before += more,
            _ => self.events.push_back(event),
        }
    }

    /// Takes the oldest pending events.
    fn take(&mut self, topic: Topic) -> Batch {
        let mut bytes = 0;
        let mut count = 0;
        for event in &self.events {
            bytes += event.json.len();
            if count > 0 && bytes > BATCH_BYTES {
                bytes -= event.json.len();
                break;
            }
            count += 1;
        }
        self.in_flight = true;
        self.bytes -= bytes;
        let rest = self.events.split_off(count);
        Batch {
            topic,
            head: self.head,
            term: self.term.clone(),
            events: std::mem::replace(&mut self.events, rest),
            bytes,
        }
    }
}

impl State {
    /// Drops the older half of the pending events of the topic with the most bytes. Topics that
    /// conflate have one event each, so they are skipped. Deletes are small, and must be carried out, so
    /// they are dropped only if there is nothing else.
    fn shed(&mut self) {
        let lossless = self.topics.iter_mut().filter(|(topic, _)| !topic.kind().conflates());
        let Some((topic, pending)) = lossless.max_by_key(|(_, pending)| pending.bytes) else {
            return;
        };
        let mut lost = 0;
        if let Some(Role::Lost(_)) = pending.events.front().map(|first| &first.role) {
            lost = pending.events.pop_front().map_or(0, |mark| mark.count());
        }
        let count = pending.events.len().div_ceil(2);
        let is_delete = |event: &Outgoing| matches!(event.role, Role::Deleted(_));
        let (kept, mut dropped): (Vec<_>, Vec<_>) =
            pending.events.drain(..count).partition(is_delete);
        if dropped.is_empty() {
            dropped = kept;
        } else {
            for event in kept.into_iter().rev() {
                pending.events.push_front(event);
            }
        }
        let bytes: usize = dropped.iter().map(|event| event.json.len()).sum();
        let count: u64 = dropped.iter().map(Outgoing::count).sum();
        warn!(%topic, events = count, "dropped the oldest pending events: the backlog for the database is too large");
        lost += count;
        if lost > 0 {
            pending.events.push_front(Outgoing::new(Vec::new(), Role::Lost(lost)));
        }
        pending.bytes -= bytes;
        self.bytes -= bytes;
        self.spilled.extend(deletes(topic, dropped.into_iter()));
    }
}

/// Returns the deletes among events.
fn deletes(
    topic: &Topic,
    events: impl Iterator<Item = Outgoing>,
) -> impl Iterator<Item = (Topic, Outgoing)> {
    events
        .filter(|event| matches!(event.role, Role::Deleted(_)))
        .map(move |event| (topic.clone(), event))
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

    /// The events of a batch. A loss is `-` and how many are lost.
    fn texts(batch: &Batch) -> Vec<String> {
        let text = |event: &Outgoing| match event.role {
            Role::Lost(count) => format!("-{count}"),
            _ => String::from_utf8_lossy(&event.json).into_owned(),
        };
        batch.events.iter().map(text).collect()
    }

    fn appended(batch: &Batch, head: Option<Head>) -> Appended {
        Appended {
            topic: batch.topic.clone(),
            head,
            term: batch.term.clone(),
            entries: vec![],
            changes: vec![],
            unwritten: VecDeque::new(),
            bytes: batch.bytes,
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
        queue.finish(&mut appended(&first, Some(head(3))));
        assert!(is_woken(&queue).await);
        let second = queue.take_ready().pop().expect("a batch");
        assert_eq!((texts(&second), second.head), (vec!["3".to_owned()], Some(head(3))));
        queue.finish(&mut appended(&second, Some(head(4))));
        assert!(queue.is_idle() && queue.take_ready().is_empty());
    }

    #[test]
    fn a_conflating_topic_keeps_only_the_newest_event() {
        let queue = Queue::new(1_000);
        let ticker = topic("coinbase/ticker/BTC-USD");
        for text in ["1", "2", "3"] {
            queue.publish(&ticker, event(text));
        }
        assert_eq!(queue.state.lock().bytes, 1, "the others are free again");
        let batch = queue.take_ready().pop().expect("a batch");
        assert_eq!(texts(&batch), ["3"]);
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
        assert_eq!(texts(of(&matches())), ["-2", "event-0003"]);
        assert_eq!(texts(of(&small)), ["small"]);
    }

    #[test]
    fn a_loss_keeps_its_place_and_grows() {
        let queue = Queue::new(20);
        let lost = Outgoing::lost;
        for event in [lost(2), lost(3), event("1"), lost(1), event("2")] {
            queue.publish(&matches(), event);
        }
        queue.publish(&matches(), event("a text that is too long"));
        let batch = queue.take_ready().pop().expect("a batch");
        assert_eq!(texts(&batch), ["-7", "2", "a text that is too long"]);
        queue.finish(&mut appended(&batch, Some(head(10))));
        assert!(queue.take_ready().is_empty());
        for event in [lost(2), lost(3), event("3"), lost(1)] {
            queue.publish(&matches(), event);
        }
        let batch = queue.take_ready().pop().expect("a batch");
        assert_eq!(texts(&batch), ["-5", "3", "-1"]);
    }

    #[test]
    fn a_topic_without_pending_events_loses_none() {
        let queue = Queue::new(10);
        queue.publish(&matches(), event("12345678"));
        let batch = queue.take_ready().pop().expect("a batch");
        // The memory is full, and only an event that cannot be dropped is pending.
        queue.publish(&topic("coinbase/ticker/BTC-USD"), event("12345678"));
        queue.finish(&mut appended(&batch, Some(head(2))));
        let batches = queue.take_ready();
        let batches: Vec<_> = batches.iter().map(|it| (it.topic.as_str(), texts(it))).collect();
        assert_eq!(batches, [("coinbase/ticker/BTC-USD", vec!["12345678".to_owned()])]);
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
            queue.finish(&mut appended(batch, Some(head(2))));
        }
        let batches = queue.take_ready();
        let rest: Vec<_> =
            batches.iter().map(|it| (it.topic.as_str(), texts(it), it.head)).collect();
        assert_eq!(rest, [("mastodon/public", vec!["another".to_owned()], Some(head(2)))]);
    }

    #[test]
    fn events_in_flight_count_and_a_batch_is_limited() {
        let queue = Queue::new(3 * BATCH_BYTES);
        let large = "x".repeat(BATCH_BYTES / 2);
        for _ in 0..5 {
            queue.publish(&matches(), event(&large));
        }
        let first = queue.take_ready().pop().expect("a batch");
        assert_eq!(texts(&first), [&*large, &*large]);
        assert_eq!(first.bytes, 2 * large.len());
        for _ in 0..2 {
            queue.publish(&matches(), event(&large));
        }
        queue.finish(&mut appended(&first, Some(head(3))));
        let second = queue.take_ready().pop().expect("a batch");
        // Seven events are more than the limit, although two of them were in flight.
        assert_eq!(texts(&second), ["-3", &*large, &*large]);
    }

    #[tokio::test(start_paused = true)]
    async fn deletes_are_dropped_last_and_kept_aside() {
        let queue = Queue::new(20);
        let public = topic("mastodon/public");
        let role = |uri: &str| Role::Deleted(uri.into());
        let delete = |uri: &str| Outgoing::new("12345678", role(uri));
        let spilled = |queue: &Queue| -> Vec<Role> {
            queue.take_spilled().into_iter().map(|(_, event)| event.role).collect()
        };
        for event in [event("87654321"), delete("first"), delete("second")] {
            queue.publish(&public, event);
        }
        assert_eq!(spilled(&queue), [], "the other event is dropped");
        queue.publish(&public, delete("third"));
        assert_eq!(spilled(&queue), [role("first"), role("second")]);
        let mut batch = queue.take_ready().pop().expect("a batch");
        assert_eq!(texts(&batch), ["-3", "12345678"]);
        queue.publish(&public, delete("later"));
        queue.forget("mastodon");
        assert!(batch.term.is_cancelled());
        let mut unwritten = appended(&batch, None);
        unwritten.unwritten = std::mem::take(&mut batch.events);
        while is_woken(&queue).await {}
        queue.finish(&mut unwritten);
        assert!(is_woken(&queue).await, "a delete was dropped");
        assert_eq!(spilled(&queue), [role("later"), role("third")]);
        assert_eq!(queue.state.lock().bytes, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_topic_returns_its_reserved_numbers_once() {
        let queue = Queue::new(1_000);
        let minute = Duration::from_mins(1);
        queue.publish(&matches(), event("1"));
        let batch = queue.take_ready().pop().expect("a batch");
        let mut done = appended(&batch, Some(head(2)));
        done.entries = vec![Entry::Lost { topic: matches(), seq: 1, last: 1, is_logged: false }];
        queue.finish(&mut done);
        assert!(queue.take_silent(minute).is_empty());
        time::advance(minute).await;
        let silent = queue.take_silent(minute).pop().expect("a batch");
        assert!(silent.events.is_empty() && silent.head == Some(head(2)));
        assert!(queue.take_silent(minute).is_empty(), "it is in flight");
        queue.finish(&mut appended(&silent, Some(Head { reserved: 1, ..head(2) })));
        assert!(queue.take_silent(minute).is_empty());
    }
}
