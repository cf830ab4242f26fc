//! Appending: gives the events of a batch their numbers, packs them into frames and writes those to
//! the log.
//!
//! A leader fences a topic before its first append: earlier leaders can no longer append there. An
//! entry is made once and used until it is known whether the log has it, because the response of an
//! append can be lost.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use aws::{
    control::{Control, leases::Lease},
    error::StoreError,
    log::{AppendError, Fence, Log},
};
use bytes::Bytes;
use domain::{
    backoff::Backoff,
    chain::Chain,
    clock::Clock,
    entry::Entry,
    frame::{Frame, MESSAGE_BYTES},
    topic::Topic,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time;
use tracing::{debug, warn};

use super::{
    queue::{Appended, Batch, Head},
    settle::Settler,
};
use crate::{
    leadership::{Leadership, Standing},
    outgoing::{Outgoing, Role},
};

/// How many numbers are reserved at a time. If a poller is killed and the whole log of a topic expires,
/// numbering continues after them.
const RESERVE: u64 = 1_000;

/// Most attempts to fence a topic while others append to it.
const FENCE_ATTEMPTS: usize = 16;

/// Appends batches to the log.
pub(super) struct Appender {
    log: Log,
    control: Control,
    leadership: Leadership,
    settler: Arc<Settler>,
    clock: Clock,
    /// The version of the newest head that was written.
    head_version: AtomicU64,
    /// The epoch in which each topic was last fenced.
    fenced: Mutex<HashMap<Topic, u64>>,
}

/// Why a step of an append failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    /// Another poller leads the topic.
    #[error("another poller leads the topic")]
    LeaseLost,
    /// The entry was not appended.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The part of a batch that is not appended yet, and the result so far.
struct Progress {
    events: VecDeque<Outgoing>,
    /// The entry whose append has not been resolved.
    draft: Option<Draft>,
    appended: Appended,
}

/// The next entry of a batch.
#[derive(Debug, PartialEq, Eq)]
struct Draft {
    entry: Entry,
    /// The number of the newest snapshot after this entry.
    snapshot: Option<u64>,
    at: Timestamp,
    /// Whether the places of its posts are recorded.
    is_prepared: bool,
}

impl Appender {
    /// Makes an appender for the topics that `leadership` allows.
    pub(super) fn new(
        log: Log,
        control: Control,
        leadership: Leadership,
        settler: Arc<Settler>,
        clock: Clock,
    ) -> Self {
        Self {
            log,
            control,
            leadership,
            settler,
            clock,
            head_version: AtomicU64::new(0),
            fenced: Mutex::default(),
        }
    }

    /// Appends the events of a batch. Retries until all are appended or the term of the batch ends. Of
    /// a batch without events, returns the reserved numbers.
    pub(super) async fn append(&self, batch: Batch) -> Appended {
        let term = batch.term.clone();
        let mut progress = Progress::new(batch);
        if progress.is_done() {
            self.return_reserve(&mut progress.appended).await;
            return progress.appended;
        }
        if term.run_until_cancelled(self.append_all(&mut progress)).await.is_none() {
            let Progress { events, appended, .. } = &mut progress;
            if !events.is_empty() {
                warn!(topic = %appended.topic, events = events.len(), "dropped events: another poller is the leader");
            }
            appended.unwritten = std::mem::take(events);
        }
        progress.appended
    }

    async fn append_all(&self, progress: &mut Progress) {
        let topic = progress.appended.topic.clone();
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(2));
        while !progress.is_done() {
            // While the database does not respond, the lease expires, and is renewed later.
            let Standing::Leads(lease) = self.leadership.standing(&topic) else {
                self.leadership.until_leads(&topic).await;
                continue;
            };
            match self.step(progress, lease.as_ref()).await {
                Ok(()) => backoff.reset(),
                Err(error) => {
                    warn!(%topic, error = %Chain(&error), "could not append to the log; retrying");
                    let delay = backoff.next_delay();
                    time::sleep(delay).await;
                }
            }
        }
    }

    /// Appends the next entry of a batch.
    async fn step(&self, progress: &mut Progress, lease: Option<&Lease>) -> Result<(), StepError> {
        let topic = progress.appended.topic.clone();
        let known = progress.appended.head;
        let head = match known {
            Some(head) => head,
            None => self.open(&topic, lease).await?,
        };
        progress.appended.head = Some(head);
        let draft = match progress.draft.take() {
            Some(draft) => progress.draft.insert(draft),
            None => {
                let draft = progress.next_draft(head, self.clock.now());
                progress.draft.insert(draft)
            }
        };
        let last = draft.entry.last();
        if last > head.reserved {
            // Nobody returns the numbers of a topic without a leader. It has few events, so each reserves its own.
            let reserved = last + lease.map_or(0, |_| RESERVE);
            if !self.reserve(&topic, lease, reserved).await? && known.is_some() {
                // Others have reserved these numbers since the end was found. What they appended can have expired.
                progress.draft = None;
                progress.appended.head = None;
                return Ok(());
            }
            progress.appended.head = Some(Head { reserved, ..head });
        }
        if !draft.is_prepared {
            let events = (draft.entry.seq()..=last).zip(&progress.events);
            if let Entry::Frame(_) = draft.entry {
                self.settler.prepare(&topic, events).await?;
            }
            draft.is_prepared = true;
        }
        if !self.leadership.leads(&topic) {
            return Ok(());
        }
        let epoch = lease.map(|lease| lease.epoch);
        match self.log.append_in(epoch, &draft.entry, draft.snapshot, draft.at).await {
            Ok(()) => {
                progress.advance();
                Ok(())
            }
            Err(AppendError::Store(error)) => Err(error.into()),
            Err(error @ (AppendError::Taken { .. } | AppendError::Fenced { .. })) => {
                // The log does not have this entry, and cannot get it any more, because its number has
                // another item. Its events get other numbers.
                progress.draft = None;
                progress.appended.head = None;
                match lease {
                    Some(_) => Err(error.into()),
                    // Another poller has written to a topic without a leader.
                    None => Ok(()),
                }
            }
        }
    }

    /// Fences a topic that this poller leads, as soon as it does.
    pub(super) async fn fence(&self, topic: &Topic) -> Result<(), StoreError> {
        loop {
            self.leadership.until_leads(topic).await;
            let Standing::Leads(lease) = self.leadership.standing(topic) else { continue };
            let epoch = lease.as_ref().map(|lease| lease.epoch);
            if self.fenced.lock().get(topic).copied() == epoch {
                return Ok(());
            }
            match self.open(topic, lease.as_ref()).await {
                Ok(_) => return Ok(()),
                Err(StepError::Store(error)) => return Err(error),
                // The term ends as soon as the lease is to be renewed.
                Err(StepError::LeaseLost | StepError::Append(_)) => {
                    time::sleep(Duration::from_secs(1)).await;
                }
            }
        }
    }

    /// Finds the end of a topic in the log, and fences off earlier leaders there.
    async fn open(&self, topic: &Topic, lease: Option<&Lease>) -> Result<Head, StepError> {
        for _ in 0..FENCE_ATTEMPTS {
            let now = self.clock.now();
            let head = self.find_end(topic, now).await?;
            let Some(lease) = lease else { return Ok(head) };
            match self.log.fence(topic, head.next, lease.epoch, now).await? {
                Fence::Stands => {}
                Fence::Taken => continue,
                Fence::Outranked => return Err(StepError::LeaseLost),
            }
            // A poller that was frozen can find the end of another leader's topic, where the fence of that
            // leader is gone. If nobody has acquired the lease until here, a later leader finds this fence
            // or what was appended in its place.
            if !self.control.holds(lease).await? {
                return Err(StepError::LeaseLost);
            }
            self.fenced.lock().insert(topic.clone(), lease.epoch);
            debug!(%topic, next = head.next, epoch = lease.epoch, "fenced the end of the topic");
            return Ok(head);
        }
        Err(AppendError::Taken { topic: topic.clone(), seq: 0 }.into())
    }

    async fn find_end(&self, topic: &Topic, now: Timestamp) -> Result<Head, StoreError> {
        let aws::head::Head { last, snapshot } =
            aws::head::head(&self.log, &self.control, topic, now).await?;
        Ok(Head { next: last + 1, snapshot, reserved: 0 })
    }

    /// Reserves the numbers of a topic up to `seq`. Of a topic without a leader, returns `false` if they are
    /// reserved already.
    async fn reserve(
        &self,
        topic: &Topic,
        lease: Option<&Lease>,
        seq: u64,
    ) -> Result<bool, StepError> {
        let Some(lease) = lease else { return Ok(self.control.reserve(topic, seq).await?) };
        let version = self.head_version.fetch_add(1, Ordering::Relaxed) + 1;
        if self.control.reserve_in(lease.epoch, version, topic, seq).await? {
            Ok(true)
        } else {
            Err(StepError::LeaseLost)
        }
    }

    /// Returns the numbers of a topic that are reserved and not used, so that numbering continues
    /// exactly at the end when the whole log of the topic has expired.
    async fn return_reserve(&self, appended: &mut Appended) {
        let topic = &appended.topic;
        // Other pollers may use the numbers of a topic without a leader.
        let Standing::Leads(Some(lease)) = self.leadership.standing(topic) else { return };
        let Some(head) = appended.head else { return };
        let last = head.next - 1;
        match self.reserve(topic, Some(&lease), last).await {
            Ok(_) => appended.head = Some(Head { reserved: last, ..head }),
            Err(error) => {
                // The database may have it.
                appended.head = Some(Head { reserved: 0, ..head });
                warn!(%topic, error = %Chain(&error), "could not record the last number of the topic");
            }
        }
    }
}

impl Progress {
    fn new(batch: Batch) -> Self {
        let Batch { topic, head, term, events, bytes } = batch;
        let (entries, changes, unwritten) = (vec![], vec![], VecDeque::new());
        let appended = Appended { topic, head, term, entries, changes, unwritten, bytes };
        Self { events, draft: None, appended }
    }

    fn is_done(&self) -> bool {
        self.events.is_empty()
    }

    /// Makes the next entry: a loss, or the events up to the next one.
    fn next_draft(&self, head: Head, at: Timestamp) -> Draft {
        let topic = &self.appended.topic;
        if let Some(Role::Lost(count)) = self.events.front().map(|first| &first.role) {
            let last = head.next + count - 1;
            let (topic, seq) = (topic.clone(), head.next);
            let entry = Entry::Lost { topic, seq, last, is_logged: false };
            return Draft { entry, snapshot: head.snapshot, at, is_prepared: false };
        }
        // More than this does not fit into one frame.
        let mut bytes = 0;
        let events = self.events.iter().take_while(|event| !matches!(event.role, Role::Lost(_)));
        let texts = events.map(|event| &event.json);
        let texts = texts.take_while(|text| {
            let fits = bytes <= MESSAGE_BYTES;
            bytes += text.len();
            fits
        });
        let texts: Vec<&Bytes> = texts.collect();
        let frames = Frame::pack(topic, head.next, at, &texts);
        let frame = frames.into_iter().next().expect("a batch that is not done has events");
        let numbered = (frame.seq()..=frame.last()).zip(&self.events);
        let snapshots = numbered.filter(|(_, event)| event.role == Role::Snapshot);
        let snapshot = snapshots.map(|(seq, _)| seq).last().or(head.snapshot);
        Draft { entry: Entry::Frame(frame), snapshot, at, is_prepared: false }
    }

    /// Notes that the draft is in the log.
    fn advance(&mut self) {
        let Some(Draft { entry, snapshot, .. }) = self.draft.take() else { return };
        match &entry {
            Entry::Lost { .. } => drop(self.events.pop_front()),
            Entry::Frame(frame) => {
                let count = (frame.seq()..=frame.last()).count();
                let events = self.events.drain(..count);
                self.appended.changes.extend(events.filter(|event| event.role.changes_the_log()));
            }
        }
        if let Some(head) = &mut self.appended.head {
            head.next = entry.last() + 1;
            head.snapshot = snapshot;
        }
        self.appended.entries.push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(bytes: usize, role: Role) -> Outgoing {
        Outgoing::new("x".repeat(bytes), role)
    }

    /// An entry: its first and last number, and the newest snapshot.
    type Numbers = (u64, u64, Option<u64>);

    fn batch(head: Head, events: Vec<Outgoing>) -> Batch {
        Batch {
            topic: Topic::mastodon_public(),
            head: Some(head),
            term: tokio_util::sync::CancellationToken::new(),
            events: events.into(),
            bytes: 0,
        }
    }

    /// Appends a batch to a log that accepts everything. Returns the entries, and the number of edits and
    /// deletes.
    fn append(head: Head, events: Vec<Outgoing>) -> (Vec<Numbers>, usize) {
        let mut progress = Progress::new(batch(head, events));
        let mut entries = Vec::new();
        while !progress.is_done() {
            let head = progress.appended.head.expect("a head");
            let next = progress.next_draft(head, Timestamp::UNIX_EPOCH);
            entries.push((next.entry.seq(), next.entry.last(), next.snapshot));
            progress.draft = Some(next);
            progress.advance();
        }
        assert_eq!(progress.appended.entries.len(), entries.len());
        (entries, progress.appended.changes.len())
    }

    #[test]
    fn numbers_continue_from_the_head_and_have_no_holes() {
        let head = Head { next: 7, snapshot: Some(2), reserved: 9 };
        let plain = |bytes| event(bytes, Role::Plain);
        let lost = Outgoing::lost;
        let cases = [
            ("one frame", vec![plain(10), plain(10)], vec![(7, 8, Some(2))]),
            ("a loss only", vec![lost(3)], vec![(7, 9, Some(2))]),
            ("a loss first", vec![lost(3), plain(10)], vec![(7, 9, Some(2)), (10, 10, Some(2))]),
            (
                "a loss between events",
                vec![plain(10), plain(10), lost(3), plain(10)],
                vec![(7, 8, Some(2)), (9, 11, Some(2)), (12, 12, Some(2))],
            ),
            (
                "more than a frame holds",
                vec![plain(20_000), plain(20_000), plain(10)],
                vec![(7, 7, Some(2)), (8, 9, Some(2))],
            ),
        ];
        for (name, events, expected) in cases {
            assert_eq!(append(head, events), (expected, 0), "case: {name}");
        }
    }

    #[test]
    fn the_newest_snapshot_and_the_changes_of_posts_are_known() {
        let head = Head { next: 1, snapshot: None, reserved: 9 };
        let events = vec![
            event(20_000, Role::Snapshot),
            event(10, Role::Posted("a".into())),
            event(20_000, Role::Plain),
            event(10, Role::Snapshot),
            event(10, Role::Snapshot),
            event(10, Role::Deleted("a".into())),
        ];
        let expected = (vec![(1, 2, Some(1)), (3, 6, Some(5))], 1);
        assert_eq!(append(head, events), expected);
    }

    #[test]
    fn a_frame_looks_only_at_the_events_that_it_can_hold() {
        let events = vec![event(1_000, Role::Plain); 1_000];
        let head = Head { next: 1, snapshot: None, reserved: 9 };
        let (entries, _) = append(head, events);
        assert_eq!(entries.last().map(|(_, last, _)| *last), Some(1_000));
        let counts = entries.iter().map(|(seq, last, _)| last - seq + 1);
        assert!(counts.rev().skip(1).all(|count| count == 32), "full frames");
    }
}
