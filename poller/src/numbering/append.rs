//! Appending: gives the events of a batch their numbers, packs them into frames and writes those to
//! the log.

use std::time::Duration;

use aws::{
    control::Control,
    error::StoreError,
    log::{AppendError, Log},
};
use bytes::Bytes;
use domain::{backoff::Backoff, chain::Chain, entry::Entry, frame::Frame, topic::Topic};
use jiff::Timestamp;
use tokio::time;
use tracing::{debug, warn};

use super::queue::{Appended, Batch, Head};
use crate::{
    leadership::{Leadership, TERM, is_leaderless},
    outgoing::{Outgoing, Role},
};

/// How many numbers are reserved at a time, in case the whole log of a topic expires.
const RESERVE: u64 = 1 << 20;

/// Appends batches to the log.
pub(super) struct Appender {
    log: Log,
    control: Control,
    leadership: Leadership,
}

/// The part of a batch that is not appended yet, and the result so far.
struct Progress {
    events: Vec<Outgoing>,
    dropped: u64,
    appended: Appended,
}

/// The next entry of a batch.
#[derive(Debug, PartialEq, Eq)]
struct NextEntry {
    entry: Entry,
    /// The number of the newest snapshot after this entry.
    snapshot: Option<u64>,
}

impl Appender {
    /// Makes an appender for the topics that `leadership` allows.
    pub(super) fn new(log: Log, control: Control, leadership: Leadership) -> Self {
        Self { log, control, leadership }
    }

    /// Appends the events of a batch. Retries until all are appended or the lease is lost.
    pub(super) async fn append(&self, batch: Batch) -> Appended {
        let mut progress = Progress::new(batch);
        let topic = progress.appended.topic.clone();
        let mut head = progress.appended.head.take();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
        while !progress.is_done() {
            let at = match head {
                Some(head) => head,
                None => match self.open(&topic).await {
                    Ok(head) => head,
                    Err(error) => {
                        warn!(%topic, error = %Chain(&error), "could not find the end of the topic; retrying");
                        let delay = backoff.next_delay(&mut rand::rng());
                        time::sleep(delay).await;
                        if !self.leadership.leads(&topic) {
                            return progress.appended;
                        }
                        continue;
                    }
                },
            };
            head = Some(at);
            let now = Timestamp::now();
            let next = progress.next_entry(at, now);
            match self.write(&next, at.reserved, now).await {
                Ok(reserved) => {
                    backoff.reset();
                    head = Some(progress.advance(next, reserved));
                }
                Err(AppendError::Taken { .. }) => {
                    head = None;
                    if !self.still_leads(&topic).await {
                        let events = progress.events.len();
                        warn!(%topic, events, "dropped events: another poller is the leader");
                        return progress.appended;
                    }
                }
                Err(AppendError::Store(error)) => {
                    warn!(%topic, error = %Chain(&error), "could not append to the log; retrying");
                    let delay = backoff.next_delay(&mut rand::rng());
                    time::sleep(delay).await;
                    if !self.leadership.leads(&topic) {
                        return progress.appended;
                    }
                }
            }
        }
        progress.appended.head = head;
        progress.appended
    }

    /// Records the last number of a topic, so that numbering continues there if the log expires.
    pub(super) async fn reserve_exactly(&self, topic: &Topic, last: u64) {
        if let Err(error) = self.control.reserve(topic, last).await {
            warn!(%topic, error = %Chain(&error), "could not record the last number of the topic");
        }
    }

    /// Writes an entry, after its numbers are reserved. Returns the last reserved number.
    async fn write(
        &self,
        next: &NextEntry,
        reserved: u64,
        now: Timestamp,
    ) -> Result<u64, AppendError> {
        let NextEntry { entry, snapshot } = next;
        let reserved = if entry.last() > reserved {
            let reserve = entry.last() + RESERVE;
            self.control.reserve(entry.topic(), reserve).await?;
            reserve
        } else {
            reserved
        };
        self.log.append(entry, *snapshot, now).await?;
        Ok(reserved)
    }

    /// Finds the end of a topic in the log.
    async fn open(&self, topic: &Topic) -> Result<Head, StoreError> {
        let reserved = self.control.reserved(topic).await?;
        let head = match self.log.newest(topic).await? {
            Some(newest) => Head {
                next: newest.entry.last() + 1,
                snapshot: newest.snapshot,
                reserved: reserved.unwrap_or(0),
            },
            // Everything has expired. Continuing after the reserved numbers uses no number twice.
            None => Head {
                next: reserved.map_or(1, |reserved| reserved + 1),
                snapshot: None,
                reserved: reserved.unwrap_or(0),
            },
        };
        debug!(%topic, next = head.next, "found the end of the topic");
        Ok(head)
    }

    /// Asks the database whether this poller still holds the lease of a topic's family.
    async fn still_leads(&self, topic: &Topic) -> bool {
        if is_leaderless(topic) {
            return true;
        }
        let Some(lease) = self.leadership.lease_of(topic) else { return false };
        match self.control.renew(&lease, TERM, Timestamp::now()).await {
            Ok(held) => held,
            Err(error) => {
                warn!(error = %Chain(&error), "could not confirm the lease; assuming that it is still held");
                true
            }
        }
    }
}

impl Progress {
    fn new(batch: Batch) -> Self {
        let Batch { topic, head, generation, dropped, events } = batch;
        let appended = Appended { topic, head, generation, entries: vec![], posts: vec![] };
        Self { events, dropped, appended }
    }

    fn is_done(&self) -> bool {
        self.events.is_empty() && self.dropped == 0
    }

    /// Makes the next entry. Dropped events come first, because they are older than the others.
    fn next_entry(&self, head: Head, now: Timestamp) -> NextEntry {
        let topic = &self.appended.topic;
        if self.dropped > 0 {
            let last = head.next + self.dropped - 1;
            let entry = Entry::Lost { topic: topic.clone(), seq: head.next, last };
            return NextEntry { entry, snapshot: head.snapshot };
        }
        let texts: Vec<&Bytes> = self.events.iter().map(|event| &event.json).collect();
        let frames = Frame::pack(topic, head.next, now, &texts);
        let frame = frames.into_iter().next().expect("a batch that is not done has events");
        let numbered = (frame.seq()..=frame.last()).zip(&self.events);
        let snapshots = numbered.filter(|(_, event)| event.role == Role::Snapshot);
        let snapshot = snapshots.map(|(seq, _)| seq).last().or(head.snapshot);
        NextEntry { entry: Entry::Frame(frame), snapshot }
    }

    /// Notes that an entry is in the log. Returns where the topic ends.
    fn advance(&mut self, next: NextEntry, reserved: u64) -> Head {
        let NextEntry { entry, snapshot } = next;
        match &entry {
            Entry::Lost { .. } => self.dropped = 0,
            Entry::Frame(frame) => {
                let numbers = frame.seq()..=frame.last();
                let count = numbers.clone().count();
                for (seq, event) in numbers.zip(self.events.drain(..count)) {
                    match event.role {
                        Role::Posted(_) | Role::Edited(_) | Role::Deleted(_) => {
                            self.appended.posts.push((seq, event));
                        }
                        Role::Plain | Role::Snapshot => {}
                    }
                }
            }
        }
        let head = Head { next: entry.last() + 1, snapshot, reserved };
        self.appended.entries.push(entry);
        head
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize, role: Role) -> Outgoing {
        Outgoing { json: "x".repeat(bytes).into(), role }
    }

    /// An entry: its first and last number, and the newest snapshot.
    type Numbers = (u64, u64, Option<u64>);

    /// Appends a batch to a log that accepts everything. Returns the entries, and the numbers of the
    /// posts.
    fn append(head: Head, dropped: u64, events: Vec<Outgoing>) -> (Vec<Numbers>, Vec<u64>) {
        let topic = Topic::mastodon_public();
        let batch = Batch { topic, head: Some(head), generation: 0, dropped, events };
        let mut progress = Progress::new(batch);
        let mut head = head;
        let mut entries = Vec::new();
        while !progress.is_done() {
            let next = progress.next_entry(head, Timestamp::UNIX_EPOCH);
            let is_lost = matches!(next.entry, Entry::Lost { .. });
            assert_eq!(is_lost, progress.dropped > 0, "dropped events come first");
            entries.push((next.entry.seq(), next.entry.last(), next.snapshot));
            head = progress.advance(next, 9);
            assert_eq!(head.reserved, 9);
        }
        assert_eq!(progress.appended.entries.len(), entries.len());
        (entries, progress.appended.posts.iter().map(|(seq, _)| *seq).collect())
    }

    #[test]
    fn numbers_continue_from_the_head_and_have_no_holes() {
        let head = Head { next: 7, snapshot: Some(2), reserved: 9 };
        let plain = |bytes| event(bytes, Role::Plain);
        let cases = [
            ("one frame", 0, vec![plain(10), plain(10)], vec![(7, 8, Some(2))]),
            ("dropped only", 3, vec![], vec![(7, 9, Some(2))]),
            ("dropped first", 3, vec![plain(10)], vec![(7, 9, Some(2)), (10, 10, Some(2))]),
            (
                "more than a frame holds",
                0,
                vec![plain(20_000), plain(20_000), plain(10)],
                vec![(7, 7, Some(2)), (8, 9, Some(2))],
            ),
        ];
        for (name, dropped, events, expected) in cases {
            assert_eq!(append(head, dropped, events), (expected, vec![]), "case: {name}");
        }
    }

    #[test]
    fn the_newest_snapshot_and_the_posts_are_known_by_number() {
        let head = Head { next: 1, snapshot: None, reserved: 9 };
        let events = vec![
            event(20_000, Role::Snapshot),
            event(10, Role::Posted("a".into())),
            event(20_000, Role::Plain),
            event(10, Role::Snapshot),
            event(10, Role::Snapshot),
            event(10, Role::Deleted("a".into())),
        ];
        let expected = (vec![(1, 2, Some(1)), (3, 6, Some(5))], vec![2, 6]);
        assert_eq!(append(head, 0, events), expected);
    }
}
