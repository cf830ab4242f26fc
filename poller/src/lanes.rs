//! Lanes: one for each shard, with one invocation of `push` in flight; what gathers meanwhile goes
//! into the next.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws::{
    connections::Shard,
    error::Chain,
    log::Entry,
    push::{Job, Lost, Push},
};
use domain::{connection::ConnectionId, frame::Frame, topic::Topic};
use jiff::Timestamp;
use tokio::{sync::Notify, time};
use tokio_util::sync::CancellationToken;
use tracing::{instrument, warn};

use crate::{backoff::Backoff, health::Counters};

/// Most bytes of frames in a job: Lambda takes 6 MB.
const JOB_BYTES: usize = 4 * 1024 * 1024;

/// Most connections that a job announces.
const JOB_JOINED: usize = 50_000;

/// Most bytes of frames that wait for `push`. What is given up is in the log.
const WAITING_BYTES: usize = 16 * 1024 * 1024;

/// When connections that took too little are tried again.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// The lanes of all shards. Clones share them.
#[derive(Clone)]
pub struct Lanes {
    lanes: Arc<BTreeMap<Shard, Lane>>,
    counters: Arc<Counters>,
}

struct Lane {
    shard: Shard,
    waiting: Mutex<Waiting>,
    wake: Notify,
    /// The version of the rules that `push` has to go by.
    rules: Arc<AtomicU64>,
}

#[derive(Default)]
struct Waiting {
    /// What somebody in the shard wants.
    topics: BTreeSet<Topic>,
    joined: Vec<ConnectionId>,
    frames: VecDeque<Frame>,
    bytes: usize,
    lost: Vec<Lost>,
    /// Whether `push` has something to do even if there is nothing to send.
    poked: bool,
}

impl Lanes {
    /// A lane for each shard, with nothing wanted.
    pub fn new(shards: impl IntoIterator<Item = Shard>) -> Self {
        let rules = Arc::new(AtomicU64::new(0));
        let lanes = shards.into_iter().map(|shard| {
            let (waiting, wake, rules) = (Mutex::default(), Notify::new(), rules.clone());
            (shard, Lane { shard, waiting, wake, rules })
        });
        Self { lanes: Arc::new(lanes.collect()), counters: Arc::default() }
    }

    /// What went through the lanes.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Hands on what was appended, to the lanes where it is wanted.
    pub fn send(&self, entries: &[&Entry]) {
        let frames = entries.iter().filter_map(|entry| match entry {
            Entry::Frame(frame) => Some(frame),
            Entry::Lost { .. } => None,
        });
        let (mut count, mut events) = (0, 0);
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

    /// Sets what is wanted in a shard, and announces connections that were not known before.
    pub fn want(&self, shard: Shard, topics: BTreeSet<Topic>, joined: Vec<ConnectionId>) {
        let Some(lane) = self.lanes.get(&shard) else { return };
        let wake = !joined.is_empty();
        {
            let mut waiting = lane.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            waiting.topics = topics;
            waiting.joined.extend(joined);
        }
        if wake {
            lane.wake.notify_one();
        }
    }

    /// Has `push` look after the connections of a shard, even if there is nothing to send.
    pub fn poke(&self, shard: Shard) {
        let Some(lane) = self.lanes.get(&shard) else { return };
        lane.waiting.lock().unwrap_or_else(PoisonError::into_inner).poked = true;
        lane.wake.notify_one();
    }

    /// Has `push` go by rules of this version, and look at all connections by them.
    pub fn obey(&self, version: u64) {
        for (shard, lane) in self.lanes.iter() {
            lane.rules.store(version, Ordering::Relaxed);
            self.poke(*shard);
        }
    }

    /// Runs all lanes until `shutdown`, and after that until nothing waits.
    pub async fn run(&self, push: Arc<dyn Push>, shutdown: CancellationToken) {
        let lanes = self.lanes.keys().map(|shard| {
            let (lanes, push, shutdown) = (self.clone(), push.clone(), shutdown.clone());
            let shard = *shard;
            tokio::spawn(async move {
                if let Some(lane) = lanes.lanes.get(&shard) {
                    lane.run(push.as_ref(), &lanes.counters, shutdown).await;
                }
            })
        });
        for lane in lanes.collect::<Vec<_>>() {
            if let Err(error) = lane.await {
                warn!(%error, "lane ended");
            }
        }
    }
}

impl Lane {
    fn send(&self, entries: &[&Entry]) {
        let mut sent = false;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for entry in entries {
            if !waiting.topics.contains(entry.topic()) {
                continue;
            }
            sent = true;
            match entry {
                Entry::Frame(frame) => {
                    waiting.bytes += frame.json().len();
                    waiting.frames.push_back(frame.clone());
                }
                Entry::Lost { topic, seq, last } => {
                    let topic = topic.clone();
                    waiting.lost.push(Lost { topic, from: *seq, to: *last });
                }
            }
        }
        waiting.shed(self.shard);
        drop(waiting);
        if sent {
            self.wake.notify_one();
        }
    }

    #[instrument(name = "lane", skip_all, fields(shard = self.shard))]
    async fn run(&self, push: &dyn Push, counters: &Counters, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        // Whether connections have not taken all of theirs.
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
                            break self.wake_if_waiting();
                        }
                    }
                    Err(error) => {
                        warn!(error = %Chain(&error), "push failed");
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

    /// With slow connections, rounds still start as soon as there is something new.
    fn wake_if_waiting(&self) {
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if !waiting.is_empty() {
            self.wake.notify_one();
        }
    }

    fn empty_job(&self) -> Job {
        let rules = self.rules.load(Ordering::Relaxed);
        Job { shard: self.shard, joined: vec![], lost: vec![], rules, frames: vec![] }
    }

    fn take(&self) -> Option<Job> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if waiting.is_empty() {
            return None;
        }
        let mut frames = Vec::new();
        let mut bytes = 0;
        while bytes < JOB_BYTES
            && let Some(frame) = waiting.frames.pop_front()
        {
            bytes += frame.json().len();
            frames.push(frame);
        }
        waiting.bytes -= bytes;
        let joined = waiting.joined.len().min(JOB_JOINED);
        let joined = waiting.joined.drain(..joined).collect();
        waiting.poked = false;
        let lost = std::mem::take(&mut waiting.lost);
        let rules = self.rules.load(Ordering::Relaxed);
        Some(Job { shard: self.shard, joined, lost, rules, frames })
    }

    /// Puts a job back in front of what has gathered meanwhile.
    fn put_back(&self, job: Job) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for frame in job.frames.into_iter().rev() {
            waiting.bytes += frame.json().len();
            waiting.frames.push_front(frame);
        }
        waiting.poked = true;
        waiting.lost.splice(0..0, job.lost);
        waiting.joined.splice(0..0, job.joined);
        waiting.shed(self.shard);
    }
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.lost.is_empty() && self.joined.is_empty() && !self.poked
    }

    /// Gives up the oldest frames past the limit; the clients are told and can ask for a replay.
    fn shed(&mut self, shard: Shard) {
        if self.bytes <= WAITING_BYTES {
            return;
        }
        let mut count = 0;
        while self.bytes > WAITING_BYTES / 2
            && let Some(frame) = self.frames.pop_front()
        {
            count += 1;
            self.bytes -= frame.json().len();
            let (topic, from, to) = (frame.topic().clone(), frame.seq(), frame.last());
            match self.lost.iter_mut().find(|lost| lost.topic == topic && lost.to + 1 == from) {
                Some(lost) => lost.to = to,
                None => self.lost.push(Lost { topic, from, to }),
            }
        }
        warn!(shard, frames = count, "push is too slow; the oldest frames are not sent");
    }
}
