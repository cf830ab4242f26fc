//! The state of a lane: for each topic, how far the shard has been served, and which connections are
//! behind and where.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use aws::control::lanes::LaneNote;
use domain::{
    connection::ConnectionId,
    entry::Entry,
    frame::MESSAGE_BYTES,
    push::{Behind, Changed, Job, Lag, NAME_CHANGES_FOR, Report, Stretch},
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use super::change::Change;

/// Most bytes of events in a job. Lambda accepts 6 MB.
const JOB_BYTES: usize = 4 * 1024 * 1024;

/// Most connections that are behind in a job.
const JOB_BEHIND: usize = 20_000;

/// Most bytes of events that are pending for `push`. Events that are dropped stay in the log.
const PENDING_BYTES: usize = 16 * 1024 * 1024;

/// How long a job may take. It limits how long the lane waits for a job without a response, and how long a
/// job goes on after the rules have changed.
const JOB_TIME: Duration = Duration::from_secs(2);

/// The first delay before a connection that did not accept a message is tried again.
const LEAST_DELAY: Duration = Duration::from_millis(50);

/// The longest delay before a slow connection is tried again.
const MOST_DELAY: Duration = Duration::from_secs(1);

/// How often a lane with something to send checks whether the lease was renewed.
const LEASE_EVERY: Duration = Duration::from_millis(250);

/// Most connections behind in a note. If there are more, all subscribers are sent the events again
/// after a failover.
const NOTE_BEHIND: usize = 1_000;

/// The state of a lane.
#[derive(Debug, Default)]
pub(super) struct State {
    lines: BTreeMap<Topic, Line>,
    behind: BTreeMap<ConnectionId, Straggler>,
    /// The changes of connections that the jobs name.
    changed: VecDeque<(Instant, Changed)>,
    /// The families that this lane has taken over.
    families: BTreeSet<String>,
    /// Up to where the previous leader served each topic, until the topics are set for the first time.
    noted: BTreeMap<Topic, u64>,
    /// Bytes of all pending events.
    bytes: usize,
    /// When `push` has to check its connections even if there is nothing to send.
    check_at: Option<Instant>,
    /// How many subscriptions and connections `push` still has to end.
    unfinished: u64,
    /// How long the lane waits before the next try, while none succeeds.
    unfinished_delay: Duration,
    /// Whether the state has changed since it was last noted.
    is_dirty: bool,
}

/// One topic with subscribers in the shard.
#[derive(Debug, Default)]
struct Line {
    subscribers: usize,
    /// Up to where the subscribers have been served, except those that are behind. `None` before the
    /// first event.
    sent: Option<u64>,
    /// The last number in the log, as far as the lane knows.
    to: u64,
    /// Entries after `sent`. The log has those that are missing.
    entries: VecDeque<Entry>,
}

/// A connection that is behind.
#[derive(Debug, Default)]
struct Straggler {
    next: BTreeMap<Topic, u64>,
    lag: Lag,
    delay: Duration,
    retry_at: Option<Instant>,
}

impl State {
    /// Sets the topics with subscribers, and their number.
    pub(super) fn set_topics(&mut self, topics: &BTreeMap<Topic, usize>) {
        let gone: Vec<Topic> =
            self.lines.keys().filter(|topic| !topics.contains_key(*topic)).cloned().collect();
        for topic in gone {
            self.drop_topic(&topic);
        }
        for (topic, subscribers) in topics {
            let noted = &mut self.noted;
            let line = self.lines.entry(topic.clone()).or_insert_with(|| {
                let sent = noted.remove(topic);
                Line { sent, to: sent.unwrap_or(0), ..Line::default() }
            });
            line.subscribers = *subscribers;
        }
        // The lane does not see what is appended to a topic until somebody wants it.
        self.noted.clear();
    }

    /// Drops everything about the topics of a family.
    pub(super) fn drop_family(&mut self, family: &str) {
        self.families.remove(family);
        let lines = self.lines.keys().filter(|topic| topic.source() == family);
        for topic in lines.cloned().collect::<Vec<_>>() {
            self.drop_topic(&topic);
        }
    }

    fn drop_topic(&mut self, topic: &Topic) {
        if let Some(line) = self.lines.remove(topic) {
            self.bytes -= line.entries.iter().map(Entry::bytes).sum::<usize>();
        }
        self.behind.retain(|_, straggler| {
            straggler.next.remove(topic);
            !straggler.next.is_empty()
        });
        self.is_dirty = true;
    }

    /// Continues from what the previous leader of a family noted.
    pub(super) fn take_over(&mut self, family: &str, note: LaneNote) {
        self.families.insert(family.to_owned());
        self.noted.extend(note.sent);
        for behind in note.behind {
            let straggler = self.behind.entry(behind.connection).or_default();
            straggler.next.extend(behind.next);
            straggler.lag = behind.lag;
        }
    }

    /// Applies a change of a connection.
    pub(super) fn change(&mut self, change: Change, now: Instant) {
        let Change { id, version, topics, joined } = change;
        if let Some(straggler) = self.behind.get_mut(&id) {
            straggler.next.retain(|topic, _| topics.contains(topic));
            if straggler.next.is_empty() {
                self.behind.remove(&id);
            }
        }
        if !joined.is_empty() {
            let straggler = self.behind.entry(id.clone()).or_default();
            straggler.next.extend(joined.iter().map(|(topic, it)| (topic.clone(), it.next)));
            straggler.retry_at = None;
            self.is_dirty = true;
        }
        let joined = joined.into_iter().map(|(topic, start)| (topic, start.since)).collect();
        self.changed.push_back((now, Changed { connection: id, version, joined }));
    }

    /// Notes that the log of a topic ends at `to`.
    pub(super) fn extend(&mut self, topic: &Topic, to: u64) {
        if let Some(line) = self.lines.get_mut(topic) {
            line.to = line.to.max(to);
        }
    }

    /// Adds entries that were appended to the log. Returns whether any of them has to be sent.
    pub(super) fn send(&mut self, entries: &[&Entry], shard: Shard) -> bool {
        let mut is_wanted = false;
        for entry in entries {
            let Some(line) = self.lines.get_mut(entry.topic()) else { continue };
            line.sent.get_or_insert(entry.seq() - 1);
            if entry.last() > line.to {
                line.to = entry.last();
                self.bytes += entry.bytes();
                line.entries.push_back((*entry).clone());
                is_wanted = true;
            }
        }
        if self.bytes > PENDING_BYTES {
            self.shed(shard);
        }
        is_wanted
    }

    /// Drops the older pending events of the topics with the most bytes. The subscribers are notified
    /// by a `gap` in their place, and can ask for a replay.
    fn shed(&mut self, shard: Shard) {
        let mut events = 0;
        while self.bytes > PENDING_BYTES / 2 {
            let size = |line: &Line| line.entries.iter().map(Entry::bytes).sum::<usize>();
            let Some(line) = self.lines.values_mut().max_by_key(|line| size(line)) else { break };
            // At least one frame, or nothing would become free.
            let Some(frame) = line.entries.iter().position(|it| it.bytes() > 0) else { break };
            let count = line.entries.len().div_ceil(2).max(frame + 1);
            let dropped: Vec<Entry> = line.entries.drain(..count).collect();
            let (Some(first), Some(last)) = (dropped.first(), dropped.last()) else { break };
            let (topic, seq, last) = (first.topic().clone(), first.seq(), last.last());
            self.bytes -= dropped.iter().map(Entry::bytes).sum::<usize>();
            events += last - seq + 1;
            line.entries.push_front(Entry::Lost { topic, seq, last, is_logged: true });
        }
        warn!(shard, events, "dropped the oldest pending events: push is slower than the sources");
    }

    /// Makes `push` check its connections at `at`, even if there is nothing to send.
    pub(super) fn check(&mut self, at: Instant) {
        self.check_at = Some(self.check_at.map_or(at, |before| before.min(at)));
    }

    /// Makes the next job, or returns `None` if there is nothing to do at `now`. Topics for which
    /// `may_send` returns `false` are left out.
    pub(super) fn job(
        &mut self,
        shard: Shard,
        rules: u64,
        now: Instant,
        may_send: impl Fn(&Topic) -> bool,
    ) -> Option<Job> {
        while self.changed.front().is_some_and(|(at, _)| *at + NAME_CHANGES_FOR < now) {
            self.changed.pop_front();
        }
        let is_checked = self.check_at.is_some_and(|at| at <= now);
        let has_new = self.lines.iter().any(|(topic, line)| line.has_new() && may_send(topic));
        let has_due = self.behind.values().any(|it| it.is_due(&self.lines, now, &may_send));
        if !is_checked && !has_new && !has_due {
            return None;
        }
        self.check_at = self.check_at.filter(|_| !is_checked);

        let mut behind = Vec::new();
        for (connection, straggler) in self.behind.iter().take(JOB_BEHIND) {
            let mut next = straggler.next.clone();
            next.retain(|topic, _| may_send(topic));
            if !next.is_empty() {
                let waits = !straggler.is_due(&self.lines, now, &may_send);
                let (connection, lag) = (connection.clone(), straggler.lag);
                behind.push(Behind { connection, next, lag, waits });
            }
        }
        let needed: BTreeSet<&Topic> = behind.iter().flat_map(|it| it.next.keys()).collect();
        // A connection that is behind and did not fit must not be taken for one that is not.
        let is_complete = self.behind.len() <= JOB_BEHIND;
        let mut stretches = Vec::new();
        let mut bytes = 0;
        for (topic, line) in self.lines.iter().filter(|(topic, _)| may_send(topic)) {
            let Some(prev) = line.sent else { continue };
            let has_new = is_complete && line.has_new() && bytes < JOB_BYTES;
            if has_new || needed.contains(topic) {
                let mut stretch =
                    Stretch { topic: topic.clone(), prev, to: prev, entries: Vec::new() };
                if has_new {
                    line.fill(&mut stretch, &mut bytes);
                }
                stretches.push(stretch);
            }
        }
        Some(Job {
            shard,
            rules,
            time_ms: u64::try_from(JOB_TIME.as_millis()).unwrap_or(u64::MAX),
            posts: self.posts_for(&stretches, &behind),
            stretches,
            behind,
            changed: self.recent_changes(),
        })
    }

    /// Returns the recent changes, one for each connection.
    fn recent_changes(&self) -> Vec<Changed> {
        let mut changes: BTreeMap<&ConnectionId, Changed> = BTreeMap::new();
        for (_, changed) in &self.changed {
            let merged = changes
                .entry(&changed.connection)
                .or_insert_with(|| Changed { joined: BTreeMap::new(), ..changed.clone() });
            merged.version = merged.version.max(changed.version);
            merged.joined.extend(changed.joined.clone());
        }
        changes.into_values().collect()
    }

    /// Estimates the number of posts that a job needs.
    fn posts_for(&self, stretches: &[Stretch], behind: &[Behind]) -> u64 {
        let mut posts = 1 + self.unfinished;
        for stretch in stretches.iter().filter(|stretch| stretch.prev < stretch.to) {
            let bytes: usize = stretch.entries.iter().map(Entry::bytes).sum();
            let subscribers = self.lines.get(&stretch.topic).map_or(0, |line| line.subscribers);
            posts += (subscribers * (1 + bytes / MESSAGE_BYTES)) as u64;
        }
        // The rest of a long catching up is left for the next jobs.
        posts + behind.iter().filter(|it| !it.waits).map(|it| 2 + it.next.len() as u64).sum::<u64>()
    }

    /// Applies the report of a job.
    pub(super) fn apply(&mut self, job: &Job, report: Report, now: Instant) {
        self.is_dirty = true;
        for (topic, served) in &report.served {
            let Some(line) = self.lines.get_mut(topic) else { continue };
            match job.stretches.iter().find(|stretch| stretch.topic == *topic) {
                // The line may have been dropped and made again meanwhile.
                Some(stretch) if line.sent == Some(stretch.prev) => {
                    line.sent = Some((*served).clamp(stretch.prev, stretch.to));
                }
                None if line.sent.is_none() => {
                    line.sent = Some(*served);
                    line.to = line.to.max(*served);
                }
                Some(_) | None => {}
            }
            while let Some(entry) = line.entries.front()
                && Some(entry.last()) <= line.sent
            {
                self.bytes -= entry.bytes();
                line.entries.pop_front();
            }
        }

        let in_job: BTreeSet<&ConnectionId> = job.behind.iter().map(|it| &it.connection).collect();
        let mut before: BTreeMap<&ConnectionId, (&Behind, Straggler)> = BTreeMap::new();
        for behind in &job.behind {
            let Some(straggler) = self.behind.get_mut(&behind.connection) else { continue };
            // Positions that changed meanwhile belong to a new subscription.
            straggler.next.retain(|topic, next| behind.next.get(topic) != Some(next));
            let rest = Straggler {
                next: BTreeMap::new(),
                lag: straggler.lag,
                delay: straggler.delay,
                retry_at: straggler.retry_at,
            };
            if straggler.next.is_empty() {
                self.behind.remove(&behind.connection);
            }
            before.insert(&behind.connection, (behind, rest));
        }
        for behind in report.behind {
            let known = before.get(&behind.connection);
            // Connections that changed or left meanwhile are no longer the ones of the job.
            if known.is_none() && in_job.contains(&behind.connection) {
                continue;
            }
            let Behind { connection, next, lag, .. } = behind;
            let lines = &self.lines;
            let next: BTreeMap<Topic, u64> = next
                .into_iter()
                .filter(|(topic, next)| {
                    lines
                        .get(topic)
                        .is_some_and(|line| line.sent.is_none_or(|sent| *next != sent + 1))
                })
                .collect();
            if next.is_empty() {
                continue;
            }
            let straggler = self.behind.entry(connection).or_default();
            let made_progress =
                known.is_none_or(|(before, _)| !before.waits && before.next != next);
            if let Some((before, kept)) = known
                && (before.waits || !made_progress)
            {
                straggler.delay = kept.delay;
                straggler.retry_at = kept.retry_at;
            }
            let waited = known.is_some_and(|(before, _)| before.waits);
            straggler.lag = lag;
            if !waited {
                let needs_delay = lag != Lag::None || !made_progress;
                straggler.delay = match (needs_delay, made_progress) {
                    (false, _) => Duration::ZERO,
                    (true, true) => LEAST_DELAY,
                    (true, false) => (straggler.delay * 2).clamp(LEAST_DELAY, MOST_DELAY),
                };
                straggler.retry_at = needs_delay.then(|| now + straggler.delay);
            }
            for (topic, next) in next {
                straggler.next.entry(topic).or_insert(next);
            }
        }
        for id in &report.gone {
            self.behind.remove(id);
        }
        let made_progress = report.unfinished < self.unfinished;
        self.unfinished = report.unfinished;
        if self.unfinished > 0 {
            let delay = if made_progress { Duration::ZERO } else { self.unfinished_delay * 2 };
            self.unfinished_delay = delay.clamp(LEAST_DELAY, MOST_DELAY);
            self.check(now + self.unfinished_delay);
        } else {
            self.unfinished_delay = Duration::ZERO;
        }
    }

    /// Returns when there is something to do if nothing else happens.
    pub(super) fn due_at(
        &self,
        now: Instant,
        may_send: impl Fn(&Topic) -> bool,
    ) -> Option<Instant> {
        let retries = self.behind.values().filter(|it| it.is_servable(&self.lines, &may_send));
        let retries = retries.filter_map(|straggler| straggler.retry_at);
        // Nothing announces that an expired lease was renewed.
        let waits_for_lease =
            self.lines.iter().any(|(topic, line)| line.has_new() && !may_send(topic));
        let lease = waits_for_lease.then_some(now + LEASE_EVERY);
        retries.chain(self.check_at).chain(lease).min()
    }

    /// Returns whether all events have been sent, except to connections that are behind.
    pub(super) fn is_idle(&self) -> bool {
        self.lines.values().all(|line| !line.has_new())
    }

    /// Returns what the next leader of a family needs to know, if it has changed. Until the lane has taken the
    /// family over, the note of the previous leader stands.
    pub(super) fn note(&self, family: &str, at: Timestamp) -> Option<LaneNote> {
        if !self.is_dirty || !self.families.contains(family) {
            return None;
        }
        let is_part = |topic: &Topic| topic.source() == family || topic.source() == "system";
        let lines = self.lines.iter().filter(|(topic, _)| is_part(topic));
        let mut sent: BTreeMap<Topic, u64> =
            lines.filter_map(|(topic, line)| Some((topic.clone(), line.sent?))).collect();
        let mut behind = Vec::new();
        for (connection, straggler) in &self.behind {
            let mut next = straggler.next.clone();
            next.retain(|topic, _| is_part(topic));
            if next.is_empty() {
                continue;
            }
            if behind.len() < NOTE_BEHIND {
                let (connection, lag) = (connection.clone(), straggler.lag);
                behind.push(Behind { connection, next, lag, waits: false });
            } else {
                for (topic, next) in next {
                    sent.entry(topic)
                        .and_modify(|sent| *sent = (*sent).min(next.saturating_sub(1)));
                }
            }
        }
        Some(LaneNote { at, sent, behind })
    }

    /// Records that the state was noted.
    pub(super) fn noted(&mut self) {
        self.is_dirty = false;
    }

    /// Records that the state has to be noted again.
    pub(super) fn touch(&mut self) {
        self.is_dirty = true;
    }
}

impl Line {
    fn has_new(&self) -> bool {
        self.sent.is_some_and(|sent| sent < self.to)
    }

    /// Adds pending entries to a stretch, as far as they fit into a job.
    fn fill(&self, stretch: &mut Stretch, bytes: &mut usize) {
        for entry in &self.entries {
            if *bytes >= JOB_BYTES {
                return;
            }
            *bytes += entry.bytes();
            stretch.to = entry.last();
            stretch.entries.push(entry.clone());
        }
        stretch.to = self.to;
    }
}

impl Straggler {
    /// Returns whether there is something to send at `now`.
    fn is_due(
        &self,
        lines: &BTreeMap<Topic, Line>,
        now: Instant,
        may_send: impl Fn(&Topic) -> bool,
    ) -> bool {
        self.retry_at.is_none_or(|at| at <= now) && self.is_servable(lines, may_send)
    }

    /// Returns whether there is something to send, now or later.
    fn is_servable(
        &self,
        lines: &BTreeMap<Topic, Line>,
        may_send: impl Fn(&Topic) -> bool,
    ) -> bool {
        self.next.iter().any(|(topic, next)| {
            may_send(topic)
                && lines.get(topic).is_some_and(|line| line.sent.is_none() || *next <= line.to)
        })
    }
}
