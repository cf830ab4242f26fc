//! Subscribing a connection to topics, over its WebSocket or over REST.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    time::Duration,
};

use aws::{connections::ConnectionError, error::StoreError};
use domain::{
    access::{Limits, Principal},
    backoff::Backoff,
    chain::Chain,
    connection::{Connection, JOINING_NOTED_EVERY},
    entry::{Entry, Newest},
    log_id::LogId,
    protocol::{GapReason, Subscribed},
    topic::Topic,
};
use jiff::Timestamp;
use tokio::time::{self, Instant, MissedTickBehavior};
use tracing::warn;

use crate::{
    access::{history::EVENT_BYTES, rules::RulesError},
    app::App,
    log_id::LogIdError,
};

/// Approximate number of bytes that are read from the log at a time.
pub(crate) const CHUNK_BYTES: usize = 1024 * 1024;

/// How long to retry the last step of a subscription. API Gateway ends an invocation after 29 s.
const GO_LIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Most bytes of the events of a topic that are kept from the check whether they are complete until they
/// are sent. A subscription after a short interruption reads its events once.
const MAX_KEPT_BYTES: usize = 256 * 1024;

/// About how many bytes a snapshot has.
const SNAPSHOT_BYTES: u64 = 64 * 1024;

/// Why a connection could not be subscribed.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The connection is closed, or has reached its topic limit.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rules are not known.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The id of the log is not known.
    #[error(transparent)]
    LogId(#[from] LogIdError),
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event; on a topic with snapshots, with the newest snapshot.
    Newest,
    /// After the event with this sequence number.
    After(u64),
    /// After the event with this sequence number of another log: with the next event.
    AfterOther(u64),
    /// With this many of the newest events.
    Last(u64),
}

impl Start {
    /// Returns the start after event `seq` of the log that the client calls `log`, if it names one.
    pub(crate) fn after(seq: u64, log: Option<&str>, ours: &LogId) -> Self {
        match log {
            Some(log) if log != ours.as_str() => Self::AfterOther(seq),
            Some(_) | None => Self::After(seq),
        }
    }

    /// Returns whether the subscription starts with events from the past.
    pub fn is_history(self) -> bool {
        match self {
            Self::Newest => false,
            Self::After(_) | Self::AfterOther(_) | Self::Last(_) => true,
        }
    }
}

/// A connection that has joined topics. `push` sends their events after `App::go_live`.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The id of the log.
    pub log: LogId,
    /// The newest sequence number of each topic.
    pub topics: Vec<Subscribed>,
    /// The topics that the connection was not subscribed to before.
    pub added: BTreeSet<Topic>,
    /// When it was recorded that the connection joins the topics, or a little earlier.
    pub(crate) joined_at: Instant,
}

/// The position of a connection in a topic that it is joining.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub topic: Topic,
    /// The next sequence number to send.
    pub next: u64,
    /// The newest sequence number of the topic.
    pub head: u64,
    /// The first sequence number that the connection can have.
    pub oldest: u64,
    /// Whether the subscription starts with events from the past.
    pub with_history: bool,
    /// The numbers of the `gap` that a client gets whose position does not belong to this log.
    pub reset: Option<(u64, u64)>,
    /// Whether the connection misses none of the events after its position, if it has one. [`App::join`] finds it
    /// out where it is not known.
    pub recovered: Option<bool>,
    /// The numbers that `join` looks for in the log.
    unchecked: Option<RangeInclusive<u64>>,
    /// About how many bytes the events have that the connection is sent from the log.
    pub bytes: u64,
    /// About how many bytes one of them has.
    event_bytes: u64,
    /// The first entries to send, as far as they have been read.
    pub entries: Vec<Entry>,
}

impl Position {
    /// Returns what the client is not sent: numbers, and the reason.
    pub(crate) fn gap(&self) -> Option<(u64, u64, GapReason)> {
        match self.reset {
            Some((from, to)) => Some((from, to, GapReason::Reset)),
            None if self.next < self.oldest && self.next <= self.head => {
                Some((self.next, self.head.min(self.oldest - 1), GapReason::Expired))
            }
            None => None,
        }
    }

    /// Returns the number before the first that the client is sent.
    fn cursor(&self) -> u64 {
        self.next.max(self.oldest) - 1
    }
}

/// Returns the numbers of the `gap` for a client that has event `since`, which does not belong to the log
/// or is not in it. The last one is always the newest number, after which the subscription starts. If the
/// log ends before `since`, the gap has all its numbers; both are 0 if it has none.
fn reset(since: u64, head: u64) -> (u64, u64) {
    let from = if since < head { since + 1 } else { head.min(1) };
    (from, head)
}

impl App {
    /// Subscribes a connection from these positions on and leaves all sending to `push`, so that the caller
    /// needs no permission to post.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] when the connection cannot join the topics, or the database fails.
    pub(crate) async fn subscribe(
        &self,
        connection: &Connection,
        positions: &mut [Position],
        now: Timestamp,
    ) -> Result<Joined, SubscribeError> {
        let joined = self.join(connection, positions, now).await?;
        self.go_live(connection, positions).await?;
        Ok(joined)
    }

    /// Returns where a principal starts in topics. Nothing is recorded yet.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] when the rules are not known, or the database fails.
    pub(crate) async fn locate(
        &self,
        principal: &Principal,
        starts: &BTreeMap<Topic, Start>,
        now: Timestamp,
    ) -> Result<Vec<Position>, SubscribeError> {
        let limits = self.rules.current().await?.limits_of(principal);
        let mut positions = Vec::new();
        for (topic, start) in starts {
            positions.push(self.locate_in(topic, *start, &limits, now).await?);
        }
        Ok(positions)
    }

    /// Records that a connection joins topics at these positions. Looks first whether the log has all events
    /// after them.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] when the connection cannot join the topics, or the database fails.
    pub(crate) async fn join(
        &self,
        connection: &Connection,
        positions: &mut [Position],
        now: Timestamp,
    ) -> Result<Joined, SubscribeError> {
        let limits = self.rules.current().await?.limits_of(&connection.principal);
        let log = self.log_id.get().await?.clone();
        for position in positions.iter_mut() {
            if let Some(range) = position.unchecked.take() {
                self.check(position, range, now).await?;
            }
        }
        // The item says where each subscription starts. If the rest is interrupted, `push` sends the
        // events from there.
        let cursors = positions.iter().map(|it| (it.topic.clone(), it.cursor())).collect();
        let id = &connection.recipient.id;
        let connections = &self.tables.connections;
        let joined_at = Instant::now();
        let added = connections.join(connection.shard, id, &cursors, limits.topics).await?;
        let topics = positions
            .iter()
            .map(|it| Subscribed { topic: it.topic.clone(), seq: it.head, recovered: it.recovered })
            .collect();
        Ok(Joined { log, topics, added, joined_at })
    }

    /// Hands the topics over to `push`, which sends the events from these positions on.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`] when the connection is closed, or the database fails.
    pub(crate) async fn go_live(
        &self,
        connection: &Connection,
        positions: &[Position],
    ) -> Result<(), ConnectionError> {
        let sent = positions.iter().map(|it| (it.topic.clone(), it.cursor())).collect();
        let id = &connection.recipient.id;
        let retry_until = Instant::now() + GO_LIVE_TIMEOUT;
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        loop {
            let live = self.tables.connections.go_live(connection.shard, id, &sent).await;
            match live {
                // The client has its confirmation and waits for events.
                Err(ConnectionError::Store(error)) if Instant::now() < retry_until => {
                    warn!(error = %Chain(&error), "could not hand a subscription over to push; retrying");
                    time::sleep(backoff.next_delay()).await;
                }
                live => return live,
            }
        }
    }

    /// Completes the subscription of a connection that joined topics at `joined_at`. Notes meanwhile that it goes
    /// on, because the poller takes over subscriptions that were interrupted.
    pub(crate) async fn while_joining<T>(
        &self,
        connection: &Connection,
        topics: &BTreeSet<Topic>,
        joined_at: Instant,
        completing: impl Future<Output = T>,
    ) -> T {
        let noting = async {
            let mut due = time::interval_at(joined_at + JOINING_NOTED_EVERY, JOINING_NOTED_EVERY);
            due.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                due.tick().await;
                let (shard, id) = (connection.shard, &connection.recipient.id);
                if let Err(error) = self.tables.connections.keep_joining(shard, id, topics).await {
                    warn!(error = %Chain(&error), "could not note that a subscription goes on");
                }
            }
        };
        tokio::select! {
            completed = completing => completed,
            never = noting => never,
        }
    }

    async fn locate_in(
        &self,
        topic: &Topic,
        start: Start,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<Position, StoreError> {
        let log = &self.tables.log;
        let newest = log.newest_retained(topic, now).await?;
        // The last number that an expired event can have.
        let mut expired = 0;
        let head = if let Some(newest) = &newest {
            newest.entry.last()
        } else {
            // Either no event was ever numbered, or all of them have expired. The newest may be deleted already.
            let known = log.newest(topic).await?.map_or(0, |newest| newest.entry.last());
            match start {
                Start::After(seq) => {
                    expired = self.tables.head(topic, now).await?;
                    seq.min(expired).max(known)
                }
                Start::Newest | Start::AfterOther(_) | Start::Last(_) => known,
            }
        };
        let event_bytes = newest.as_ref().map_or(0, mean_bytes);
        let floor = limits.oldest(head);
        let (mut reset, mut unchecked, mut snapshot_bytes) = (None, None, 0);
        let (next, recovered) = match start {
            Start::Newest => {
                let snapshot = newest.and_then(|newest| newest.snapshot);
                let snapshot = snapshot.filter(|_| topic.kind().has_snapshots());
                snapshot_bytes = snapshot.map_or(0, |_| SNAPSHOT_BYTES);
                (snapshot.unwrap_or(head + 1), None)
            }
            Start::AfterOther(seq) => {
                reset = Some(self::reset(seq, head));
                (head + 1, Some(false))
            }
            // The client received its events from another log.
            Start::After(seq) if seq > head => {
                reset = Some(self::reset(seq, head));
                (head + 1, Some(false))
            }
            Start::After(seq) if seq == head => (head + 1, Some(expired <= head)),
            Start::After(seq) if seq + 1 < floor => (seq + 1, Some(false)),
            Start::After(seq) => {
                unchecked = Some(seq + 1..=head);
                (seq + 1, None)
            }
            Start::Last(count) => {
                let oldest = log.oldest(topic, now).await?.unwrap_or(head + 1).max(floor);
                ((head + 1).saturating_sub(count).max(oldest), None)
            }
        };
        let with_history = start.is_history();
        // The snapshot that an order book starts with does not count as history.
        let oldest = if with_history { floor } else { 1 };
        let events = (head + 1).saturating_sub(next.max(oldest));
        let bytes = snapshot_bytes.saturating_add(events.saturating_mul(event_bytes));
        let (topic, entries) = (topic.clone(), Vec::new());
        Ok(Position {
            topic,
            next,
            head,
            oldest,
            with_history,
            reset,
            recovered,
            unchecked,
            bytes,
            event_bytes,
            entries,
        })
    }

    /// Looks whether the log has all events of a range, after which the position is exact. Keeps the first entries
    /// if they are small.
    async fn check(
        &self,
        position: &mut Position,
        range: RangeInclusive<u64>,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let Position { topic, head, .. } = &*position;
        let log = &self.tables.log;
        let (mut next, last) = range.into_inner();
        let mut kept = None;
        let mut is_complete = true;
        let mut bytes = 0;
        while is_complete && next <= last {
            let entries = log.read(topic, next, last, CHUNK_BYTES, now).await?;
            is_complete = !entries.is_empty();
            for entry in &entries {
                is_complete &= matches!(entry, Entry::Frame(_)) && entry.seq() <= next;
                next = entry.last() + 1;
                bytes += entry.bytes() as u64;
            }
            kept.get_or_insert(entries);
        }
        let mut kept = kept.unwrap_or_default();
        if kept.iter().map(Entry::bytes).sum::<usize>() > MAX_KEPT_BYTES {
            kept.clear();
        }
        if !is_complete {
            // Most of what is missing has expired.
            let oldest = log.oldest(topic, now).await?.unwrap_or(head + 1);
            bytes = (head + 1).saturating_sub(oldest.max(position.next)) * position.event_bytes;
        }
        position.bytes = bytes;
        position.recovered = Some(is_complete);
        position.entries = kept;
        Ok(())
    }
}

/// Returns about how many bytes each event of a topic has. A snapshot of an order book is not like its other events.
fn mean_bytes(newest: &Newest) -> u64 {
    let Newest { entry, snapshot } = newest;
    let events = entry.last() - entry.seq() + 1;
    match snapshot {
        Some(number) if *number >= entry.seq() => EVENT_BYTES,
        _ => (entry.bytes() as u64 / events).max(EVENT_BYTES),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gap_of_a_reset_ends_at_the_newest_number() {
        let cases = [
            (5, 9, (6, 9)),
            (8, 9, (9, 9)),
            (9, 9, (1, 9)),
            (50, 9, (1, 9)),
            (u64::MAX, 9, (1, 9)),
            (50, 0, (0, 0)),
            (0, 0, (0, 0)),
        ];
        for (since, head, expected) in cases {
            assert_eq!(reset(since, head), expected, "case: {since} in a log up to {head}");
        }
    }
}
