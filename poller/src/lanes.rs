//! Lanes: one for each shard, with at most one invocation of `push` in flight. Frames that arrive
//! during an invocation go into the next one.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use domain::{
    backoff::Backoff,
    chain::Chain,
    connection::ConnectionId,
    entry::Entry,
    frame::Frame,
    push::{Job, Lost, Push},
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use tracing::{instrument, warn};

use crate::health::Counters;

#[cfg(test)]
mod tests;

/// Most bytes of frames in a job: Lambda accepts 6 MB.
const JOB_BYTES: usize = 4 * 1024 * 1024;

/// Most connections that a job announces.
const JOB_JOINED: usize = 50_000;

/// Most bytes of frames that are pending for `push`. Frames that are dropped stay in the log.
const PENDING_BYTES: usize = 16 * 1024 * 1024;

/// Time until connections with a backlog are tried again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The lanes of all shards. Clones share them.
#[derive(Clone)]
pub struct Lanes {
    lanes: Arc<BTreeMap<Shard, Lane>>,
    counters: Arc<Counters>,
}

struct Lane {
    shard: Shard,
    pending: Mutex<Pending>,
    wake: Notify,
    /// The version of the rules that `push` has to apply.
    rules: Arc<AtomicU64>,
}

/// The work of the next invocations of `push`.
#[derive(Default)]
struct Pending {
    /// The topics with a subscriber in the shard.
    topics: BTreeSet<Topic>,
    joined: Vec<ConnectionId>,
    frames: VecDeque<Frame>,
    bytes: usize,
    lost: Vec<Lost>,
    /// Whether `push` has to check its connections even if there is nothing to send.
    check: bool,
}

impl Lanes {
    /// Makes a lane for each shard, without subscribers.
    pub fn new(shards: impl IntoIterator<Item = Shard>) -> Self {
        let rules = Arc::new(AtomicU64::new(0));
        let lanes = shards.into_iter().map(|shard| {
            let lane = Lane {
                shard,
                pending: Mutex::default(),
                wake: Notify::new(),
                rules: rules.clone(),
            };
            (shard, lane)
        });
        Self { lanes: Arc::new(lanes.collect()), counters: Arc::default() }
    }

    /// Returns the counters of frames and failures.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Passes appended entries to the lanes whose shards have a subscriber of their topics.
    pub fn send(&self, entries: &[&Entry]) {
        let frames = entries.iter().filter_map(|entry| match entry {
            Entry::Frame(frame) => Some(frame),
            Entry::Lost { .. } => None,
        });
        let mut count = 0;
        let mut events = 0;
        for frame in frames {
            count += 1;
            events += frame.last() - frame.seq() + 1;
        }
        if count > 0 {
            self.counters.appended(count, events, Timestamp::now());
        }
        for lane in self.lanes.values() {
            lane.send(entries);
        }
    }

    /// Sets the topics with a subscriber in a shard, and announces connections that are new.
    pub fn set_wanted(&self, shard: Shard, topics: BTreeSet<Topic>, joined: Vec<ConnectionId>) {
        let Some(lane) = self.lanes.get(&shard) else { return };
        let wake = !joined.is_empty();
        {
            let mut pending = lane.pending.lock();
            pending.topics = topics;
            pending.joined.extend(joined);
        }
        if wake {
            lane.wake.notify_one();
        }
    }

    /// Makes `push` check the connections of a shard, even if there is nothing to send.
    pub fn check(&self, shard: Shard) {
        let Some(lane) = self.lanes.get(&shard) else { return };
        lane.pending.lock().check = true;
        lane.wake.notify_one();
    }

    /// Makes `push` apply this version of the rules, and check all connections against it.
    pub fn set_rules(&self, version: u64) {
        for (shard, lane) in self.lanes.iter() {
            lane.rules.store(version, Ordering::Relaxed);
            self.check(*shard);
        }
    }

    /// Runs all lanes until `shutdown`, and after that until nothing is pending.
    pub async fn run(&self, push: Arc<dyn Push>, shutdown: CancellationToken) {
        let lanes = self.lanes.keys().map(|shard| {
            let lanes = self.clone();
            let push = push.clone();
            let shutdown = shutdown.clone();
            let shard = *shard;
            tokio::spawn(async move {
                if let Some(lane) = lanes.lanes.get(&shard) {
                    lane.run(push.as_ref(), &lanes.counters, shutdown).await;
                }
            })
        });
        for lane in lanes.collect::<Vec<_>>() {
            if let Err(error) = lane.await {
                warn!(%error, "a lane stopped unexpectedly");
            }
        }
    }
}

impl Lane {
    fn send(&self, entries: &[&Entry]) {
        let mut sent = false;
        let mut pending = self.pending.lock();
        for entry in entries {
            if !pending.topics.contains(entry.topic()) {
                continue;
            }
            sent = true;
            match entry {
                Entry::Frame(frame) => {
                    pending.bytes += frame.json().len();
                    pending.frames.push_back(frame.clone());
                }
                Entry::Lost { topic, seq, last } => {
                    let topic = topic.clone();
                    pending.lost.push(Lost { topic, from: *seq, to: *last });
                }
            }
        }
        pending.shed(self.shard);
        drop(pending);
        if sent {
            self.wake.notify_one();
        }
    }

    #[instrument(name = "lane", skip_all, fields(shard = self.shard))]
    async fn run(&self, push: &dyn Push, counters: &Counters, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // Whether some connections have a backlog.
        let mut retry = false;
        loop {
            let patience = if retry { RETRY_AFTER } else { Duration::MAX };
            let woken = time::timeout(patience, self.wake.notified());
            let stopping = shutdown.run_until_cancelled(woken).await.is_none();
            loop {
                let job = match self.take() {
                    Some(job) => job,
                    None if retry && !stopping => self.empty_job(),
                    None => break,
                };
                match push.push(job.clone()).await {
                    Ok(report) => {
                        backoff.reset();
                        retry = report.waiting > 0;
                        if retry && !stopping {
                            break self.wake_if_pending();
                        }
                    }
                    Err(error) => {
                        warn!(error = %Chain(&error), "could not invoke push; retrying the same job");
                        counters.push_failed();
                        self.put_back(job);
                        if stopping {
                            return;
                        }
                        let delay = backoff.next_delay(&mut rand::rng());
                        shutdown.run_until_cancelled(time::sleep(delay)).await;
                    }
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// Starts the next round at once if something is pending. Slow connections do not delay it.
    fn wake_if_pending(&self) {
        if !self.pending.lock().is_empty() {
            self.wake.notify_one();
        }
    }

    fn empty_job(&self) -> Job {
        let rules = self.rules.load(Ordering::Relaxed);
        Job { shard: self.shard, joined: vec![], lost: vec![], rules, frames: vec![] }
    }

    /// Takes as much as fits into one job. Returns `None` if nothing is pending.
    fn take(&self) -> Option<Job> {
        let mut pending = self.pending.lock();
        if pending.is_empty() {
            return None;
        }
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < JOB_BYTES
            && let Some(frame) = pending.frames.pop_front()
        {
            bytes += frame.json().len();
            frames.push(frame);
        }
        pending.bytes -= bytes;
        pending.check = false;
        let joined = pending.joined.len().min(JOB_JOINED);
        Some(Job {
            shard: self.shard,
            joined: pending.joined.drain(..joined).collect(),
            lost: std::mem::take(&mut pending.lost),
            rules: self.rules.load(Ordering::Relaxed),
            frames,
        })
    }

    /// Puts a job back in front of everything that was published since it was taken.
    fn put_back(&self, job: Job) {
        let mut pending = self.pending.lock();
        for frame in job.frames.into_iter().rev() {
            pending.bytes += frame.json().len();
            pending.frames.push_front(frame);
        }
        pending.check = true;
        pending.lost.splice(0..0, job.lost);
        pending.joined.splice(0..0, job.joined);
        pending.shed(self.shard);
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.lost.is_empty() && self.joined.is_empty() && !self.check
    }

    /// Drops the oldest frames if there are too many. The clients are notified by a `gap`, and can
    /// ask for a replay.
    fn shed(&mut self, shard: Shard) {
        if self.bytes <= PENDING_BYTES {
            return;
        }
        let mut count = 0;
        while self.bytes > PENDING_BYTES / 2
            && let Some(frame) = self.frames.pop_front()
        {
            count += 1;
            self.bytes -= frame.json().len();
            let from = frame.seq();
            let to = frame.last();
            let topic = frame.topic();
            match self.lost.iter_mut().find(|lost| lost.topic == *topic && lost.to + 1 == from) {
                Some(lost) => lost.to = to,
                None => self.lost.push(Lost { topic: topic.clone(), from, to }),
            }
        }
        warn!(shard, frames = count, "dropped the oldest frames: push is slower than the sources");
    }
}
