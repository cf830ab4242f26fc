//! Numbering: gives events their numbers, packs them into frames and appends those to the log.
//!
//! A topic has at most one append in flight. What is published meanwhile waits and goes into the
//! next round, so load makes frames fuller and not queues longer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use aws::{
    control::Lease,
    error::{Chain, StoreError},
    log::{AppendError, Entry},
    tables::Tables,
};
use bytes::Bytes;
use domain::{frame::Frame, topic::Topic};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, error, instrument, warn};

use crate::{
    backoff::Backoff,
    feed::{Outgoing, Role},
    lanes::Lanes,
    leases::TERM,
};

/// Appends in flight in one round.
const APPENDS_AT_ONCE: usize = 64;

/// Numbers that are reserved at a time, for the day when a topic's log has expired.
const RESERVE: u64 = 1 << 20;

/// Tries to note where a post stands, or to take it out of the log, before that is given up.
const SETTLE_ATTEMPTS: u32 = 8;

/// Everything that waits for its number. Clones share it.
#[derive(Clone)]
pub struct Numbering {
    inner: Arc<Inner>,
}

struct Inner {
    tables: Tables,
    options: Options,
    state: Mutex<State>,
    /// The right to number each family's topics.
    leases: Mutex<HashMap<String, Lease>>,
    wake: Notify,
}

/// How frames are made.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Shortest time between two rounds. After a longer silence an event goes out at once.
    pub flush: Duration,
    /// Most bytes of events that wait, when the database is away.
    pub memory_bytes: usize,
}

#[derive(Default)]
struct State {
    topics: HashMap<Topic, Waiting>,
    /// Topics with something to do and nothing in flight.
    ready: Vec<Topic>,
    bytes: usize,
}

/// What waits on one topic.
#[derive(Default)]
struct Waiting {
    events: Vec<Outgoing>,
    bytes: usize,
    /// How many events were given up; they were older than all that wait.
    dropped: u64,
    queued: bool,
    in_flight: bool,
    /// Where the log ends, once that is known.
    head: Option<Head>,
    /// Counts how often the head was forgotten, so that an append in flight does not bring it back.
    generation: u64,
}

/// Where a topic stands.
#[derive(Clone, Copy, Debug)]
struct Head {
    next: u64,
    snapshot: Option<u64>,
    reserved: u64,
}

/// A topic's part of a round.
struct Work {
    topic: Topic,
    head: Option<Head>,
    generation: u64,
    dropped: u64,
    events: Vec<Outgoing>,
}

/// A topic's part of a round, done.
struct Done {
    topic: Topic,
    head: Option<Head>,
    generation: u64,
    entries: Vec<Entry>,
    /// Posts among the events, with their numbers.
    posts: Vec<(u64, Outgoing)>,
}

impl Numbering {
    /// Nothing waits yet.
    pub fn new(tables: Tables, options: Options) -> Self {
        let (state, leases, wake) = (Mutex::default(), Mutex::default(), Notify::new());
        Self { inner: Arc::new(Inner { tables, options, state, leases, wake }) }
    }

    /// The tables it writes to.
    pub fn tables(&self) -> &Tables {
        &self.inner.tables
    }

    /// Puts an event behind those that wait on a topic. Never blocks.
    pub fn publish(&self, topic: &Topic, event: Outgoing) {
        let bytes = event.json.len();
        let mut state = self.state();
        let State { topics, ready, bytes: total } = &mut *state;
        let waiting = match topics.get_mut(topic) {
            Some(waiting) => waiting,
            None => topics.entry(topic.clone()).or_default(),
        };
        if topic.kind().conflates() {
            *total -= waiting.bytes;
            waiting.bytes = 0;
            waiting.events.clear();
        }
        waiting.events.push(event);
        waiting.bytes += bytes;
        *total += bytes;
        let wake = !waiting.queued && !waiting.in_flight;
        if wake {
            waiting.queued = true;
            ready.push(topic.clone());
        }
        if *total > self.inner.options.memory_bytes {
            state.shed();
        }
        drop(state);
        if wake {
            self.inner.wake.notify_one();
        }
    }

    /// Allows this poller to number the topics of a family, such as `coinbase`.
    pub fn lead(&self, lease: Lease) {
        self.forget(&lease.source);
        self.leases().insert(lease.source.clone(), lease);
    }

    /// Forbids it. What waits is dropped: the next leader fetches it again.
    pub fn follow(&self, family: &str) {
        self.leases().remove(family);
        self.forget(family);
    }

    /// The leases that this poller has.
    pub(crate) fn held(&self) -> Vec<Lease> {
        self.leases().values().cloned().collect()
    }

    fn forget(&self, family: &str) {
        let mut state = self.state();
        let State { topics, bytes, .. } = &mut *state;
        for (topic, waiting) in topics.iter_mut().filter(|(topic, _)| topic.source() == family) {
            if !waiting.events.is_empty() {
                debug!(%topic, events = waiting.events.len(), "waiting events dropped");
            }
            *bytes -= waiting.bytes;
            waiting.events.clear();
            (waiting.bytes, waiting.dropped, waiting.head) = (0, 0, None);
            waiting.generation += 1;
        }
    }

    /// Makes rounds until `shutdown`, and after that until nothing waits.
    pub async fn run(&self, lanes: Lanes, shutdown: CancellationToken) {
        let rounds = TaskTracker::new();
        let mut next_round = Instant::now();
        loop {
            let stopping = shutdown.run_until_cancelled(self.inner.wake.notified()).await.is_none();
            if !stopping {
                time::sleep_until(next_round).await;
            }
            // Timers fire late. Counting from when a round was due, and not from when it began,
            // the delay of one round does not add to that of the next.
            let now = Instant::now();
            let flush = self.inner.options.flush;
            let due = if now.duration_since(next_round) < flush { next_round } else { now };
            next_round = due + flush;
            let work = self.take_ready();
            if !work.is_empty() {
                rounds.spawn(self.clone().round(work, lanes.clone()));
            } else if stopping && self.state().topics.values().all(|it| !it.in_flight) {
                break;
            }
            if stopping {
                time::sleep(Duration::from_millis(5)).await;
            }
        }
        rounds.close();
        rounds.wait().await;
        self.reserve_exactly().await;
    }

    fn take_ready(&self) -> Vec<Work> {
        let mut state = self.state();
        let State { topics, ready, bytes } = &mut *state;
        let mut work = Vec::with_capacity(ready.len());
        for topic in ready.drain(..) {
            let Some(waiting) = topics.get_mut(&topic) else { continue };
            waiting.queued = false;
            if waiting.events.is_empty() && waiting.dropped == 0 {
                continue;
            }
            waiting.in_flight = true;
            *bytes -= waiting.bytes;
            waiting.bytes = 0;
            work.push(Work {
                topic,
                head: waiting.head,
                generation: waiting.generation,
                dropped: std::mem::take(&mut waiting.dropped),
                events: std::mem::take(&mut waiting.events),
            });
        }
        work
    }

    #[instrument(name = "round", skip_all, fields(topics = work.len()))]
    async fn round(self, work: Vec<Work>, lanes: Lanes) {
        let mut appends = stream::iter(work)
            .map(|work| {
                let numbering = self.clone();
                async move { numbering.append(work).await }
            })
            .buffer_unordered(APPENDS_AT_ONCE);
        let mut done = Vec::new();
        loop {
            // All topics of a round go to the lanes together, so that a connection gets one
            // message; but nobody waits long for a topic that is stuck.
            let patience = self.inner.options.flush.max(Duration::from_millis(5));
            match time::timeout(patience, appends.next()).await {
                Ok(Some(one)) => done.push(one),
                Ok(None) => break self.hand_over(&lanes, done),
                Err(_) => self.hand_over(&lanes, std::mem::take(&mut done)),
            }
        }
    }

    fn hand_over(&self, lanes: &Lanes, done: Vec<Done>) {
        let entries: Vec<&Entry> = done.iter().flat_map(|done| &done.entries).collect();
        lanes.send(&entries);
        for done in done {
            if done.posts.is_empty() {
                self.finish(&done);
                continue;
            }
            let numbering = self.clone();
            tokio::spawn(async move {
                numbering.settle(&done).await;
                numbering.finish(&done);
            });
        }
    }

    /// Lets the topic's next events go.
    fn finish(&self, done: &Done) {
        let mut state = self.state();
        let State { topics, ready, .. } = &mut *state;
        let Some(waiting) = topics.get_mut(&done.topic) else { return };
        waiting.in_flight = false;
        if waiting.generation == done.generation {
            waiting.head = done.head;
        }
        let more = !waiting.queued && (!waiting.events.is_empty() || waiting.dropped > 0);
        if more {
            waiting.queued = true;
            ready.push(done.topic.clone());
        }
        drop(state);
        if more {
            self.inner.wake.notify_one();
        }
    }

    /// Appends a topic's events, and tries until that is done or the lease is lost.
    async fn append(&self, work: Work) -> Done {
        let Work { topic, mut head, generation, mut dropped, mut events } = work;
        let mut done =
            Done { topic: topic.clone(), head: None, generation, entries: vec![], posts: vec![] };
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        while !events.is_empty() || dropped > 0 {
            let at = match head {
                Some(head) => head,
                None => match self.open(&topic).await {
                    Ok(head) => head,
                    Err(error) => {
                        warn!(%topic, error = %Chain(&error), "topic could not be opened");
                        let delay = backoff.next_delay(&mut rand::rng());
                        time::sleep(delay).await;
                        if !self.leads(&topic) {
                            return done;
                        }
                        continue;
                    }
                },
            };
            head = Some(at);
            let now = Timestamp::now();
            let entry = if dropped > 0 {
                Entry::Lost { topic: topic.clone(), seq: at.next, last: at.next + dropped - 1 }
            } else {
                let texts: Vec<&Bytes> = events.iter().map(|event| &event.json).collect();
                let frames = Frame::pack(&topic, at.next, now, &texts);
                Entry::Frame(frames.into_iter().next().expect("there are events"))
            };
            let count = usize::try_from(entry.last() - entry.seq() + 1).unwrap_or(usize::MAX);
            let snapshot = match &entry {
                Entry::Frame(_) => {
                    let newest = events[..count].iter().rposition(|it| it.role == Role::Snapshot);
                    newest.map(|index| at.next + index as u64).or(at.snapshot)
                }
                Entry::Lost { .. } => at.snapshot,
            };
            match self.append_one(&entry, snapshot, at.reserved, now).await {
                Ok(reserved) => {
                    backoff.reset();
                    head = Some(Head { next: entry.last() + 1, snapshot, reserved });
                    if dropped > 0 {
                        dropped = 0;
                    } else {
                        for (seq, event) in (at.next..).zip(events.drain(..count)) {
                            if matches!(
                                event.role,
                                Role::Posted(_) | Role::Edited(_) | Role::Deleted(_)
                            ) {
                                done.posts.push((seq, event));
                            }
                        }
                    }
                    done.entries.push(entry);
                }
                Err(AppendError::Taken { .. }) => {
                    head = None;
                    if !self.still_leads(&topic).await {
                        warn!(%topic, events = events.len(), "another poller numbers the topic");
                        return done;
                    }
                }
                Err(AppendError::Store(error)) => {
                    warn!(%topic, error = %Chain(&error), "append failed");
                    let delay = backoff.next_delay(&mut rand::rng());
                    time::sleep(delay).await;
                    if !self.leads(&topic) {
                        return done;
                    }
                }
            }
        }
        done.head = head;
        done
    }

    /// Appends an entry, with its numbers reserved before; returns what is reserved.
    async fn append_one(
        &self,
        entry: &Entry,
        snapshot: Option<u64>,
        reserved: u64,
        now: Timestamp,
    ) -> Result<u64, AppendError> {
        let reserved = if entry.last() > reserved {
            let reserve = entry.last() + RESERVE;
            self.tables().control.reserve(entry.topic(), reserve).await?;
            reserve
        } else {
            reserved
        };
        self.tables().log.append(entry, snapshot, now).await?;
        Ok(reserved)
    }

    async fn open(&self, topic: &Topic) -> Result<Head, StoreError> {
        let reserved = self.tables().control.reserved(topic).await?;
        let head = match self.tables().log.newest(topic).await? {
            Some(newest) => Head {
                next: newest.entry.last() + 1,
                snapshot: newest.snapshot,
                reserved: reserved.unwrap_or(0),
            },
            // All has expired. Going on behind what was reserved, no number is given twice.
            None => {
                let next = reserved.map_or(1, |reserved| reserved + 1);
                Head { next, snapshot: None, reserved: reserved.unwrap_or(0) }
            }
        };
        debug!(%topic, next = head.next, "topic opened");
        Ok(head)
    }

    /// Whether this poller has the lease of the topic's family, as far as it knows. The system's
    /// own topics have no leader: whoever comes second numbers again.
    fn leads(&self, topic: &Topic) -> bool {
        topic.source() == "system" || self.leases().contains_key(topic.source())
    }

    /// Asks the database whether the lease is still ours.
    async fn still_leads(&self, topic: &Topic) -> bool {
        if topic.source() == "system" {
            return true;
        }
        let Some(lease) = self.leases().get(topic.source()).cloned() else { return false };
        match self.tables().control.renew(&lease, TERM, Timestamp::now()).await {
            Ok(held) => held,
            Err(error) => {
                warn!(error = %Chain(&error), "lease could not be confirmed");
                true
            }
        }
    }

    /// Notes where posts stand, and takes out of the log what was edited or deleted.
    async fn settle(&self, done: &Done) {
        for (seq, event) in &done.posts {
            let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
            for attempt in 1..=SETTLE_ATTEMPTS {
                match self.settle_one(&done.topic, *seq, event).await {
                    Ok(()) => break,
                    Err(error) if attempt == SETTLE_ATTEMPTS => error!(
                        topic = %done.topic, seq, error = %Chain(&error),
                        "a post's place could not be kept up to date",
                    ),
                    Err(_) => {
                        let delay = backoff.next_delay(&mut rand::rng());
                        time::sleep(delay).await;
                    }
                }
            }
        }
    }

    async fn settle_one(
        &self,
        topic: &Topic,
        seq: u64,
        event: &Outgoing,
    ) -> Result<(), StoreError> {
        let (uri, replaces, stays) = match &event.role {
            Role::Posted(uri) => (uri, false, true),
            Role::Edited(uri) => (uri, true, true),
            Role::Deleted(uri) => (uri, true, false),
            Role::Plain | Role::Snapshot => return Ok(()),
        };
        let (control, log) = (&self.tables().control, &self.tables().log);
        let now = Timestamp::now();
        let mut places = control.places(uri, topic).await?;
        if replaces {
            for place in places.iter().filter(|place| **place != seq) {
                log.supersede(topic, *place, &event.json, now).await?;
            }
        }
        if stays && !places.contains(&seq) {
            places.push(seq);
            control.place(uri, topic, &places, now + log.retention()).await?;
        }
        Ok(())
    }

    /// Notes where the topics really end, so that numbering goes on there even if the log expires.
    async fn reserve_exactly(&self) {
        let heads: Vec<(Topic, u64)> = {
            let state = self.state();
            let heads = state.topics.iter().filter_map(|(topic, it)| Some((topic, it.head?)));
            heads.map(|(topic, head)| (topic.clone(), head.next - 1)).collect()
        };
        for (topic, last) in heads {
            if let Err(error) = self.tables().control.reserve(&topic, last).await {
                warn!(%topic, error = %Chain(&error), "the end of the topic could not be noted");
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.inner.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, HashMap<String, Lease>> {
        self.inner.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Gives up the older half of what waits on the topic with the most. Topics that conflate hold
    /// one event each: they have shed already.
    fn shed(&mut self) {
        let lossless = self.topics.iter_mut().filter(|(topic, _)| !topic.kind().conflates());
        let Some((topic, waiting)) = lossless.max_by_key(|(_, waiting)| waiting.bytes) else {
            return;
        };
        let count = waiting.events.len().div_ceil(2);
        let bytes: usize = waiting.events.drain(..count).map(|event| event.json.len()).sum();
        warn!(%topic, events = count, "too much waits for the database; the oldest is given up");
        waiting.dropped += count as u64;
        waiting.bytes -= bytes;
        self.bytes -= bytes;
    }
}
