//! Numbering: gives events their numbers, packs them into frames and appends those to the log.
//!
//! A topic has at most one append in flight. Events that are published meanwhile go into the next
//! round, so under load frames become fuller, and queues do not become longer.

mod append;
mod queue;
mod settle;

use std::{sync::Arc, time::Duration};

use aws::{
    control::{Control, Lease},
    log::Log,
};
use domain::{entry::Entry, topic::Topic};
use futures_util::{StreamExt as _, stream};
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::instrument;

use self::{
    append::Appender,
    queue::{Appended, Batch, Queue},
    settle::Settler,
};
use crate::{lanes::Lanes, leadership::Leadership, outgoing::Outgoing};

/// Appends in flight in one round.
const APPENDS_AT_ONCE: usize = 64;

/// Shortest time that the topics of a round wait for each other.
const LEAST_PATIENCE: Duration = Duration::from_millis(5);

/// How often a stopping poller checks whether all appends are done.
const STOP_POLL: Duration = Duration::from_millis(5);

/// Numbers events and appends them. Clones share the pending events.
#[derive(Clone)]
pub struct Numbering {
    inner: Arc<Inner>,
}

struct Inner {
    queue: Queue,
    appender: Appender,
    settler: Settler,
    leadership: Leadership,
    flush: Duration,
}

/// How frames are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shortest time between two rounds. After a longer silence, an event is sent at once.
    pub flush: Duration,
    /// Most bytes of events that are pending while the database does not respond.
    pub memory_bytes: usize,
}

impl Numbering {
    /// Makes a numbering with nothing pending, for the topics that `leadership` allows.
    pub fn new(log: Log, control: Control, leadership: Leadership, options: Options) -> Self {
        let inner = Inner {
            queue: Queue::new(options.memory_bytes),
            appender: Appender::new(log.clone(), control.clone(), leadership.clone()),
            settler: Settler::new(log, control),
            leadership,
            flush: options.flush,
        };
        Self { inner: Arc::new(inner) }
    }

    /// Adds an event to the pending events of a topic. Never blocks.
    pub fn publish(&self, topic: &Topic, event: Outgoing) {
        self.inner.queue.publish(topic, event);
    }

    /// Starts to number the topics of the family that the lease is for.
    pub fn lead(&self, lease: Lease, requested_at: Instant) {
        self.inner.queue.forget(&lease.source);
        self.inner.leadership.add(lease, requested_at);
    }

    /// Stops numbering the topics of a family. Pending events are dropped: the next leader fetches
    /// them again.
    pub fn follow(&self, family: &str) {
        self.inner.leadership.remove(family);
        self.inner.queue.forget(family);
    }

    /// Notes that the lease of a family was renewed by a request at `requested_at`.
    pub(crate) fn renewed(&self, family: &str, requested_at: Instant) {
        self.inner.leadership.renew(family, requested_at);
    }

    /// Waits for pending events and takes them, as a round does. Nothing is appended.
    #[cfg(test)]
    pub(crate) async fn take_pending(&self) -> Vec<(Topic, Outgoing)> {
        let queue = &self.inner.queue;
        queue.ready().await;
        let mut taken = Vec::new();
        for Batch { topic, head, generation, events, .. } in queue.take_ready() {
            taken.extend(events.into_iter().map(|event| (topic.clone(), event)));
            queue.finish(&Appended { topic, head, generation, entries: vec![], posts: vec![] });
        }
        taken
    }

    /// Returns the leases that this poller holds.
    pub(crate) fn leases(&self) -> Vec<Lease> {
        self.inner.leadership.all()
    }

    /// Makes rounds until `shutdown`, and after that until nothing is pending.
    pub async fn run(&self, lanes: Lanes, shutdown: CancellationToken) {
        let queue = &self.inner.queue;
        let rounds = TaskTracker::new();
        let mut pace = RoundPace::new(self.inner.flush);
        loop {
            let stopping = shutdown.run_until_cancelled(queue.ready()).await.is_none();
            if !stopping {
                pace.wait().await;
            }
            let batches = queue.take_ready();
            if !batches.is_empty() {
                rounds.spawn(self.clone().round(batches, lanes.clone()));
            } else if stopping && queue.is_idle() {
                break;
            }
            if stopping {
                time::sleep(STOP_POLL).await;
            }
        }
        rounds.close();
        rounds.wait().await;
        for (topic, last) in queue.last_numbers() {
            self.inner.appender.reserve_exactly(&topic, last).await;
        }
    }

    #[instrument(name = "round", skip_all, fields(topics = batches.len()))]
    async fn round(self, batches: Vec<Batch>, lanes: Lanes) {
        let appender = &self.inner.appender;
        let mut appends = stream::iter(batches)
            .map(|batch| appender.append(batch))
            .buffer_unordered(APPENDS_AT_ONCE);
        let patience = self.inner.flush.max(LEAST_PATIENCE);
        let mut done = Vec::new();
        loop {
            // All topics of a round go to the lanes together, so that a connection gets one
            // message. But no topic waits long for another whose append is stuck.
            match time::timeout(patience, appends.next()).await {
                Ok(Some(appended)) => done.push(appended),
                Ok(None) => break self.hand_over(&lanes, done),
                Err(_) => self.hand_over(&lanes, std::mem::take(&mut done)),
            }
        }
    }

    fn hand_over(&self, lanes: &Lanes, done: Vec<Appended>) {
        let entries: Vec<&Entry> = done.iter().flat_map(|appended| &appended.entries).collect();
        lanes.send(&entries);
        for appended in done {
            if appended.posts.is_empty() {
                self.inner.queue.finish(&appended);
                continue;
            }
            let inner = self.inner.clone();
            tokio::spawn(async move {
                inner.settler.settle(&appended).await;
                inner.queue.finish(&appended);
            });
        }
    }
}

/// Keeps rounds an interval apart.
struct RoundPace {
    interval: Duration,
    next: Instant,
}

impl RoundPace {
    fn new(interval: Duration) -> Self {
        Self { interval, next: Instant::now() }
    }

    /// Waits until a round may start.
    async fn wait(&mut self) {
        time::sleep_until(self.next).await;
        // Timers fire late. The interval counts from when a round was due and not from when it
        // started, so the delay of one round does not add to that of the next.
        let now = Instant::now();
        let is_on_time = now.duration_since(self.next) < self.interval;
        let due = if is_on_time { self.next } else { now };
        self.next = due + self.interval;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
}
