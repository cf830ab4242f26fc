//! Numbering: gives events their numbers, packs them into frames and appends those to the log.
//!
//! A topic has at most one append in flight. Events that are published meanwhile go into the next
//! round, so under load frames become fuller, and queues do not become longer.

mod append;
mod queue;
mod settle;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use aws::{
    control::{Control, leases::Lease, posts::Pending},
    error::StoreError,
    log::Log,
};
use domain::{backoff::Backoff, chain::Chain, clock::Clock, entry::Entry, topic::Topic};
use futures_util::{StreamExt as _, stream};
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{instrument, warn};

use self::{
    append::Appender,
    queue::{Appended, Batch, Queue},
    settle::{Settler, resume_panic},
};
use crate::{
    lanes::Lanes,
    leadership::Leadership,
    outgoing::{Outgoing, Role},
};

#[cfg(test)]
mod tests;

/// Appends in flight in one round.
const APPENDS_AT_ONCE: usize = 64;

/// Shortest time that the topics of a round wait for each other.
const LEAST_PATIENCE: Duration = Duration::from_millis(5);

/// How often topics are found that are silent, and changes of posts that are not carried out.
const TIDY_EVERY: Duration = Duration::from_mins(1);

/// How long a topic is silent before it returns the numbers that it has reserved.
const SILENCE: Duration = Duration::from_mins(1);

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
    settler: Arc<Settler>,
    leadership: Leadership,
    /// How long the log keeps events.
    retention: Duration,
    flush: Duration,
}

/// How frames are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shortest time between two rounds. After a longer silence, an event is sent at once.
    pub flush: Duration,
    /// Most bytes of events that are pending or in flight while the database does not respond.
    pub memory_bytes: usize,
}

impl Numbering {
    /// Makes a numbering with nothing pending, for the topics that `leadership` allows.
    pub fn new(
        log: Log,
        control: Control,
        leadership: Leadership,
        clock: Clock,
        options: Options,
    ) -> Self {
        let retention = log.retention();
        let settler = Arc::new(Settler::new(log.clone(), control.clone(), clock.clone()));
        let inner = Inner {
            queue: Queue::new(options.memory_bytes),
            appender: Appender::new(log, control, leadership.clone(), settler.clone(), clock),
            settler,
            leadership,
            retention,
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

    /// Publishes the edits and deletes again that the previous leader of a family did not carry out.
    /// Retries until that is done. It comes before everything that the sources publish.
    pub(crate) async fn recover(&self, family: &str) {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        loop {
            match self.inner.settler.pending(family).await {
                Ok(pending) => {
                    for Pending { topic, uri, deletes, event } in pending {
                        let uri = Arc::from(uri);
                        let role = if deletes { Role::Deleted(uri) } else { Role::Edited(uri) };
                        self.publish(&topic, Outgoing::new(event, role));
                    }
                    return;
                }
                Err(error) => {
                    warn!(family, error = %Chain(&error), "could not read the pending deletes; retrying");
                    let delay = backoff.next_delay();
                    time::sleep(delay).await;
                }
            }
        }
    }

    /// Waits until this poller leads a topic, and fences off earlier leaders. What is then in the log is
    /// all that they have appended.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub(crate) async fn fence(&self, topic: &Topic) -> Result<(), StoreError> {
        self.inner.appender.fence(topic).await
    }

    /// Stops numbering the topics of a family, because another poller leads it. Pending events are
    /// dropped: the next leader fetches them again.
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
        for Batch { topic, head, term, events, bytes, .. } in queue.take_ready() {
            taken.extend(events.into_iter().map(|event| (topic.clone(), event)));
            let (entries, changes, unwritten) = (vec![], vec![], std::collections::VecDeque::new());
            queue.finish(&mut Appended { topic, head, term, entries, changes, unwritten, bytes });
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
        let mut tasks = JoinSet::new();
        let mut pace = RoundPace::new(self.inner.flush);
        // Before the events of a silent topic expire, its end must be known exactly.
        let silence = SILENCE.min(self.inner.retention / 8);
        let tidy_every = TIDY_EVERY.min(silence);
        let mut tidy = time::interval_at(Instant::now() + tidy_every, tidy_every);
        loop {
            let stopping = shutdown.is_cancelled();
            tokio::select! {
                () = queue.ready() => pace.wait().await,
                Some(ended) = tasks.join_next() => {
                    resume_panic(ended);
                    continue;
                }
                _ = tidy.tick() => {
                    self.inner.settler.check();
                    let silent = queue.take_silent(silence);
                    tasks.spawn(self.clone().round(silent, lanes.clone()));
                    let carrying_out = self.clone().carry_out_pending();
                    let carrying_out = shutdown.clone().run_until_cancelled_owned(carrying_out);
                    tasks.spawn(async move { carrying_out.await.unwrap_or_default() });
                    continue;
                }
                () = shutdown.cancelled(), if !stopping => {}
                () = time::sleep(STOP_POLL), if stopping => {}
            }
            for (topic, event) in queue.take_spilled() {
                self.inner.settler.spill(&topic, &event);
            }
            let batches = queue.take_ready();
            if !batches.is_empty() {
                tasks.spawn(self.clone().round(batches, lanes.clone()));
            } else if stopping && queue.is_idle() {
                break;
            }
        }
        tasks.spawn(self.clone().round(queue.take_silent(Duration::ZERO), lanes));
        while let Some(ended) = tasks.join_next().await {
            resume_panic(ended);
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
        for mut appended in done {
            for event in &appended.changes {
                self.inner.settler.settle(&appended.topic, event);
            }
            self.inner.queue.finish(&mut appended);
        }
    }

    /// Carries out the edits and deletes that are recorded as pending, such as those that were dropped, and
    /// those of a poller that was killed after this one had begun to lead.
    async fn carry_out_pending(self) {
        for Lease { source: family, .. } in self.leases() {
            if let Err(error) = self.carry_out_pending_of(&family).await {
                warn!(family, error = %Chain(&error), "could not read the pending deletes; retrying in a minute");
            }
        }
    }

    async fn carry_out_pending_of(&self, family: &str) -> Result<(), StoreError> {
        let pending = self.inner.settler.pending(family).await?;
        let topics: BTreeSet<&Topic> = pending.iter().map(|pending| &pending.topic).collect();
        let mut fenced = BTreeSet::new();
        for topic in topics {
            // The append in flight may have the post. And without the fence, an earlier leader could append
            // the post after its delete was carried out.
            if !self.inner.queue.is_in_flight(topic) {
                self.fence(topic).await?;
                fenced.insert(topic.clone());
            }
        }
        for pending in pending {
            if fenced.contains(&pending.topic) {
                self.inner.settler.start(pending);
            }
        }
        Ok(())
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
