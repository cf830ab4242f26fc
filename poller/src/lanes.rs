//! Lanes: one for each shard, with one invocation of `push` in flight. What is appended meanwhile
//! goes into the next invocation.
//!
//! A lane knows how far its shard has been served, and goes on from the report of each invocation. It
//! notes that in `control`, so that the next leader can go on from there.

mod budget;
pub mod change;
mod state;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws::control::{Control, lanes::LaneNote};
use domain::{
    backoff::Backoff,
    chain::{BoxError, Chain},
    clock::Clock,
    entry::Entry,
    push::{Job, Push, PushError, Report},
    shard::Shard,
    topic::Topic,
};
use parking_lot::{Mutex, RwLock};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, instrument, warn};

use self::{budget::PostBudget, change::Change, state::State};
use crate::{health::Counters, leadership::Leadership};

#[cfg(test)]
mod tests;

/// How long after its time a job without a response can still be running. The time of a job begins when
/// the function does, which is later than the invocation.
const STRAY_FOR: Duration = Duration::from_secs(2);

/// How often the state of a lane is noted, at most.
const NOTE_EVERY: Duration = Duration::from_secs(1);

/// The lanes of all shards. Clones share them.
#[derive(Clone)]
pub struct Lanes {
    lanes: Arc<RwLock<Arc<ByShard>>>,
    /// Notified when a lane is added.
    added: Arc<Notify>,
    /// The version of the rules that `push` has to apply.
    rules: Arc<AtomicU64>,
    counters: Arc<Counters>,
    budget: Arc<PostBudget>,
    leadership: Leadership,
    clock: Clock,
}

type ByShard = BTreeMap<Shard, Arc<Lane>>;

struct Lane {
    shard: Shard,
    state: Mutex<State>,
    wake: Notify,
}

impl Lanes {
    /// Makes a lane for each shard, without subscribers. The account allows `posts_per_second`, all of which
    /// the lanes may use until [`Self::share`] is called.
    pub fn new(
        shards: impl IntoIterator<Item = Shard>,
        leadership: Leadership,
        posts_per_second: u32,
        clock: Clock,
    ) -> Self {
        let lanes: ByShard = shards.into_iter().map(|shard| (shard, Lane::new(shard))).collect();
        Self {
            lanes: Arc::new(RwLock::new(Arc::new(lanes))),
            added: Arc::default(),
            rules: Arc::default(),
            counters: Arc::default(),
            budget: Arc::new(PostBudget::new(posts_per_second)),
            leadership,
            clock,
        }
    }

    /// Sets how much of the account's posts the lanes may use: `parts` of `all`.
    pub fn share(&self, parts: usize, all: usize) {
        self.budget.share(parts, all);
    }

    /// Adds a lane for a shard, without subscribers, unless there is one.
    pub fn add(&self, shard: Shard) {
        let mut lanes = self.lanes.write();
        Arc::make_mut(&mut lanes).entry(shard).or_insert_with(|| Lane::new(shard));
        drop(lanes);
        self.added.notify_one();
    }

    fn all(&self) -> Arc<ByShard> {
        self.lanes.read().clone()
    }

    fn of(&self, shard: Shard) -> Option<Arc<Lane>> {
        self.lanes.read().get(&shard).cloned()
    }

    /// Returns the counts of what went through the lanes.
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
            self.counters.appended(count, events, self.clock.now());
        }
        for lane in self.all().values() {
            let is_wanted = lane.state.lock().send(entries, lane.shard);
            if is_wanted {
                lane.wake.notify_one();
            }
        }
    }

    /// Sets the number of subscribers of each topic in a shard, and applies changes of connections.
    pub fn update(&self, shard: Shard, topics: &BTreeMap<Topic, usize>, changes: Vec<Change>) {
        let Some(lane) = self.of(shard) else { return };
        {
            let now = Instant::now();
            let mut state = lane.state.lock();
            state.set_topics(topics);
            for change in changes {
                state.change(change, now);
            }
        }
        lane.wake.notify_one();
    }

    /// Continues in a shard from what the previous leader of a family noted.
    pub fn take_over(&self, shard: Shard, family: &str, note: LaneNote) {
        if let Some(lane) = self.of(shard) {
            lane.state.lock().take_over(family, note);
        }
    }

    /// Notes that the log of a topic ends at `to`. What the lanes have not sent, they send from the log.
    pub fn extend(&self, topic: &Topic, to: u64) {
        for lane in self.all().values() {
            lane.state.lock().extend(topic, to);
            lane.wake.notify_one();
        }
    }

    /// Drops everything about the topics of a family that this poller no longer leads.
    pub fn drop_family(&self, family: &str) {
        for lane in self.all().values() {
            lane.state.lock().drop_family(family);
        }
    }

    /// Makes `push` check the connections of a shard, even if there is nothing to send.
    pub fn check(&self, shard: Shard) {
        let Some(lane) = self.of(shard) else { return };
        lane.state.lock().check(Instant::now());
        lane.wake.notify_one();
    }

    /// Makes `push` apply this version of the rules, and check all connections against it.
    pub fn set_rules(&self, version: u64) {
        self.rules.store(version, Ordering::Relaxed);
        for shard in self.all().keys() {
            self.check(*shard);
        }
    }

    /// Runs all lanes until `shutdown`, and after that until all events are sent.
    pub async fn run(&self, push: Arc<dyn Push>, control: Control, shutdown: CancellationToken) {
        let mut parts = JoinSet::new();
        parts.spawn(self.clone().keep_notes(control.clone(), shutdown.clone()));
        let mut running = BTreeSet::new();
        loop {
            for (shard, lane) in self.all().iter().filter(|(shard, _)| running.insert(**shard)) {
                debug!(shard, "the lane starts");
                let (lanes, push, shutdown) = (self.clone(), push.clone(), shutdown.clone());
                let lane = lane.clone();
                parts.spawn(async move { lanes.run_lane(&lane, push.as_ref(), shutdown).await });
            }
            tokio::select! {
                ended = parts.join_next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => {
                        if let Ok(panic) = error.try_into_panic() {
                            std::panic::resume_unwind(panic);
                        }
                    }
                },
                () = self.added.notified() => {}
            }
        }
        self.write_notes(&control).await;
    }

    #[instrument(name = "lane", skip_all, fields(shard = lane.shard))]
    async fn run_lane(&self, lane: &Lane, push: &dyn Push, shutdown: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
        loop {
            let is_stopping = shutdown.is_cancelled();
            let job = self.next_job(lane);
            let Some(mut job) = job.filter(|_| !is_stopping || !lane.state.lock().is_idle()) else {
                if is_stopping {
                    return;
                }
                let due_at = self.due_at(lane);
                let due = async {
                    match due_at {
                        Some(at) => time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = lane.wake.notified() => {}
                    () = due => {}
                    () = shutdown.cancelled() => {}
                }
                continue;
            };
            job.posts = self.budget.take(job.posts).await;
            let started = Instant::now();
            let result = invoke(push, job.clone()).await;
            match result {
                Ok(report) => {
                    backoff.reset();
                    self.budget.settle(job.posts, report.posts, report.refused);
                    lane.state.lock().apply(&job, report, Instant::now());
                }
                Err(error) => {
                    warn!(error = %Chain(&error), "could not invoke push; the next job repeats this one");
                    self.counters.push_failed();
                    if is_stopping {
                        return;
                    }
                    let delay = backoff.next_delay();
                    let mut until = Instant::now() + delay;
                    if let PushError::NoResponse(_) = error {
                        // A second job beside it would post out of order.
                        until = until.max(started + job.time() + STRAY_FOR);
                    }
                    shutdown.run_until_cancelled(time::sleep_until(until)).await;
                }
            }
        }
    }

    fn next_job(&self, lane: &Lane) -> Option<Job> {
        let rules = self.rules.load(Ordering::Relaxed);
        lane.state.lock().job(lane.shard, rules, Instant::now(), self.may_send())
    }

    fn due_at(&self, lane: &Lane) -> Option<Instant> {
        lane.state.lock().due_at(Instant::now(), self.may_send())
    }

    /// Returns which topics this poller may send.
    fn may_send(&self) -> impl Fn(&Topic) -> bool {
        let leads_any = !self.leadership.all().is_empty();
        move |topic| leads_any && self.leadership.leads(topic)
    }

    /// Notes the states of the lanes, at most once a second.
    async fn keep_notes(self, control: Control, shutdown: CancellationToken) {
        while shutdown.run_until_cancelled(time::sleep(NOTE_EVERY)).await.is_some() {
            self.write_notes(&control).await;
        }
    }

    async fn write_notes(&self, control: &Control) {
        let now = self.clock.now();
        let leases = self.leadership.all();
        if leases.is_empty() {
            return;
        }
        for lane in self.all().values() {
            let notes: Vec<_> = {
                let mut state = lane.state.lock();
                let notes = leases
                    .iter()
                    .filter_map(|lease| Some((lease, state.note(&lease.source, now)?)))
                    .collect();
                state.noted();
                notes
            };
            for (lease, note) in notes {
                match control.put_lane(lease, lane.shard, &note).await {
                    Ok(true) => {}
                    Ok(false) => warn!(
                        family = lease.source,
                        "another poller leads and has noted what it sent"
                    ),
                    Err(error) => {
                        lane.state.lock().touch();
                        warn!(error = %Chain(&error), "could not note what was sent; retrying");
                    }
                }
            }
        }
    }
}

impl Lane {
    fn new(shard: Shard) -> Arc<Self> {
        Arc::new(Self { shard, state: Mutex::default(), wake: Notify::new() })
    }
}

/// Invokes `push`. If it does not respond in time, the result is unknown.
async fn invoke(push: &dyn Push, job: Job) -> Result<Report, PushError> {
    let time = job.time() + STRAY_FOR;
    match time::timeout(time, push.push(job)).await {
        Ok(result) => result,
        Err(elapsed) => Err(PushError::NoResponse(BoxError::from(elapsed))),
    }
}
