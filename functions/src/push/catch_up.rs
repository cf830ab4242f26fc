//! Catching up: connections that are behind the others, and are served one by one.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws::error::StoreError;
use domain::{
    chain::Chain,
    connection::Recipient,
    outlet::OutletError,
    protocol::GapReason,
    push::{Behind, Lag, MAX_LAG_BYTES},
    topic::Topic,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::OnceCell;
use tracing::warn;

use super::{
    budget::Budget,
    message::{Message, Piece, messages, positions},
    pusher::Pusher,
    segment::{Read, Segment, read},
    view::Straggler,
};

/// Number of connections that are served concurrently.
const CONCURRENCY: usize = 64;

/// What became of a connection that was behind.
#[derive(Debug)]
pub(super) enum CaughtUp {
    /// It has everything.
    Done,
    /// It is behind still.
    Behind(Behind),
    /// It is closed.
    Gone(Recipient),
}

/// What the stragglers of a job share.
pub(super) struct Source<'a> {
    segments: HashMap<&'a Topic, &'a Segment>,
    now: Timestamp,
    /// Connections that miss the same events share one read of the log.
    reads: Mutex<HashMap<Range, Arc<OnceCell<Read>>>>,
    /// The ends of topics that are not part of the job, where they were read.
    ends: Mutex<BTreeMap<Topic, u64>>,
}

/// A topic, and the first and the last number of a part of its log.
type Range = (Topic, u64, u64);

/// What a straggler is sent on one topic.
struct Part {
    pieces: Vec<Piece>,
    /// Where it is after that, if that is not everything.
    more_from: Option<u64>,
    /// Whether it is too far behind.
    overflowed: bool,
}

impl<'a> Source<'a> {
    pub(super) fn new(segments: &'a [Segment], now: Timestamp) -> Self {
        let segments = segments.iter().map(|segment| (&segment.topic, segment)).collect();
        Self { segments, now, reads: Mutex::default(), ends: Mutex::default() }
    }

    /// Returns the last numbers of the topics that are not part of the job.
    pub(super) fn into_ends(self) -> BTreeMap<Topic, u64> {
        self.ends.into_inner()
    }
}

impl Pusher {
    /// Serves the connections that are behind.
    pub(super) async fn catch_up(
        &self,
        stragglers: Vec<Straggler>,
        source: &Source<'_>,
        budget: &Budget,
    ) -> Vec<CaughtUp> {
        let serving = stragglers.into_iter().map(|straggler| self.serve(straggler, source, budget));
        stream::iter(serving).buffer_unordered(CONCURRENCY).collect().await
    }

    async fn serve(&self, straggler: Straggler, source: &Source<'_>, budget: &Budget) -> CaughtUp {
        let Straggler { recipient, next, mut lag, waits } = straggler;
        let behind = |next, lag| {
            CaughtUp::Behind(Behind { connection: recipient.id.clone(), next, lag, waits: false })
        };
        if waits {
            return behind(next, lag);
        }
        let mut pieces = Vec::new();
        let mut later = BTreeMap::new();
        for (topic, from) in &next {
            let part = budget.run(self.part(source, topic, *from, lag)).await;
            match part.unwrap_or(Ok(None)) {
                Ok(Some(part)) => {
                    if part.overflowed {
                        lag = Lag::Overflowed;
                    }
                    pieces.extend(part.pieces);
                    later.extend(part.more_from.map(|from| (topic.clone(), from)));
                }
                Ok(None) => {
                    later.insert(topic.clone(), *from);
                }
                Err(error) => {
                    warn!(%topic, error = %Chain(&error), "could not read the events that a connection missed; retrying later");
                    later.insert(topic.clone(), *from);
                }
            }
        }
        let messages = messages(&pieces);
        for (index, Message { bytes, .. }) in messages.iter().enumerate() {
            let unsent = || {
                let mut unsent = later.clone();
                unsent.extend(positions(&messages[index..]));
                unsent
            };
            if budget.take(1) == 0 {
                return behind(unsent(), lag);
            }
            match budget.run(self.post(&recipient, bytes.clone())).await {
                Some(Ok(())) => {}
                None => return behind(unsent(), lag),
                Some(Err(OutletError::Gone)) => return CaughtUp::Gone(recipient),
                Some(Err(OutletError::TooLarge)) => {
                    warn!(connection.id = %recipient.id, "dropped a message that is too large; the client sees a gap");
                }
                Some(Err(error @ (OutletError::Busy | OutletError::Failed(_)))) => {
                    if let OutletError::Failed(error) = &error {
                        warn!(connection.id = %recipient.id, error = %Chain(error.as_ref()), "could not post a message; retrying later");
                    }
                    let lag = if lag == Lag::None { Lag::Slow } else { lag };
                    return behind(unsent(), lag);
                }
            }
        }
        if later.is_empty() { CaughtUp::Done } else { behind(later, Lag::None) }
    }

    /// Returns what a straggler is sent on a topic, from a number on; `None` if it has more than the
    /// others.
    async fn part(
        &self,
        source: &Source<'_>,
        topic: &Topic,
        from: u64,
        lag: Lag,
    ) -> Result<Option<Part>, StoreError> {
        let segment = source.segments.get(topic).copied();
        if segment.is_some_and(|segment| from > segment.to + 1) {
            return Ok(None);
        }
        if lag != Lag::None && topic.kind().conflates() {
            return self.newest(source, topic, from, segment).await.map(Some);
        }
        if lag == Lag::Overflowed {
            return self.skip(topic, from, segment).await.map(Some);
        }
        let mut part = Part { pieces: Vec::new(), more_from: None, overflowed: false };
        let mut next = from;
        let log_to = segment.map_or(u64::MAX, |segment| segment.prev);
        if next <= log_to {
            let Read { pieces, is_cut } = self.read(source, topic, next, log_to).await?;
            next = pieces.last().map_or(next, |piece| piece.last() + 1);
            part.pieces = pieces;
            part.more_from = is_cut.then_some(next);
            if segment.is_none() && !is_cut {
                let mut ends = source.ends.lock();
                let end = ends.entry(topic.clone()).or_default();
                *end = (*end).max(next - 1);
            }
        }
        if part.more_from.is_none()
            && let Some(segment) = segment
        {
            part.pieces.extend(segment.pieces.iter().filter_map(|piece| piece.from(next)));
        }
        let bytes: usize = part.pieces.iter().map(Piece::bytes).sum();
        if lag == Lag::Slow && bytes > MAX_LAG_BYTES {
            return self.skip(topic, from, segment).await.map(Some);
        }
        Ok(Some(part))
    }

    /// Returns a gap up to the end of a topic.
    async fn skip(
        &self,
        topic: &Topic,
        from: u64,
        segment: Option<&Segment>,
    ) -> Result<Part, StoreError> {
        let to = match segment {
            Some(segment) => segment.to,
            None => self.log.newest(topic).await?.map_or(from - 1, |newest| newest.entry.last()),
        };
        Ok(Part { pieces: skipped(topic, from, to), more_from: None, overflowed: true })
    }

    /// Returns the newest event of a topic that conflates, and a gap before it.
    async fn newest(
        &self,
        source: &Source<'_>,
        topic: &Topic,
        from: u64,
        segment: Option<&Segment>,
    ) -> Result<Part, StoreError> {
        let frame = segment.and_then(|segment| match segment.pieces.last()? {
            Piece::Frame(frame) => Some(frame.clone()),
            Piece::Gap { .. } => None,
        });
        let newest = match frame {
            Some(frame) => Some(Piece::Frame(frame)),
            None => {
                let to = segment.map_or(u64::MAX, |segment| segment.to);
                let newest = self.log.newest(topic).await?.map(|newest| newest.entry.last());
                match newest {
                    Some(last) if last >= from && from <= to => {
                        let Read { pieces, .. } =
                            self.read(source, topic, last.min(to), last.min(to)).await?;
                        pieces.into_iter().next_back()
                    }
                    _ => None,
                }
            }
        };
        let mut part = Part { pieces: Vec::new(), more_from: None, overflowed: false };
        let Some(newest) = newest else { return Ok(part) };
        let last = newest.last();
        if last < from {
            return Ok(part);
        }
        part.pieces = skipped(topic, from, last - 1);
        part.pieces.extend(newest.from(last));
        Ok(part)
    }

    /// Reads a part of the log, once for all stragglers that need it.
    async fn read(
        &self,
        source: &Source<'_>,
        topic: &Topic,
        from: u64,
        to: u64,
    ) -> Result<Read, StoreError> {
        let cell = source.reads.lock().entry((topic.clone(), from, to)).or_default().clone();
        let read = cell.get_or_try_init(|| read(&self.log, topic, from..=to, source.now)).await?;
        Ok(read.clone())
    }
}

/// Returns a gap in place of the events from one number to another, if there are any.
fn skipped(topic: &Topic, from: u64, to: u64) -> Vec<Piece> {
    let gap = Piece::Gap { topic: topic.clone(), from, to, reason: GapReason::Lagging };
    if from <= to { vec![gap] } else { Vec::new() }
}
