//! Segments: what the subscribers of a topic are sent in a job, complete.

use std::ops::RangeInclusive;

use aws::{error::StoreError, log::Log};
use domain::{entry::Entry, protocol::GapReason, push::Stretch, topic::Topic};
use jiff::Timestamp;

use super::message::Piece;

/// Most of the log, in compressed bytes, that is read at once.
const READ_BYTES: usize = 1024 * 1024;

/// The numbers of a topic from `prev + 1` to `to`, with nothing missing.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) topic: Topic,
    /// The number before the first one.
    pub(super) prev: u64,
    /// The last number; `prev` if there are none.
    pub(super) to: u64,
    pub(super) pieces: Vec<Piece>,
}

/// A part of the log.
#[derive(Clone, Debug)]
pub(super) struct Read {
    pub(super) pieces: Vec<Piece>,
    /// Whether there is more to read.
    pub(super) is_cut: bool,
}

impl Segment {
    /// Completes a stretch: reads from the log what the job does not contain. It can end early, if
    /// that is much.
    pub(super) async fn complete(
        log: &Log,
        stretch: &Stretch,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let Stretch { topic, prev, to, entries } = stretch;
        let mut segment = Self { topic: topic.clone(), prev: *prev, to: *prev, pieces: Vec::new() };
        for entry in entries {
            let Some(entry) = entry.part(segment.to + 1..=*to) else { continue };
            let hole = segment.to + 1..=entry.seq() - 1;
            if !hole.is_empty() && segment.read(log, hole, now).await? {
                return Ok(segment);
            }
            segment.to = entry.last();
            segment.pieces.push(piece(entry));
        }
        let rest = segment.to + 1..=*to;
        if !rest.is_empty() {
            segment.read(log, rest, now).await?;
        }
        Ok(segment)
    }

    /// Appends a part of the log. Returns whether it was cut.
    async fn read(
        &mut self,
        log: &Log,
        range: RangeInclusive<u64>,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let Read { pieces, is_cut } = read(log, &self.topic, range, now).await?;
        self.to = pieces.last().map_or(self.to, Piece::last);
        self.pieces.extend(pieces);
        Ok(is_cut)
    }
}

/// Reads a range of numbers from the log. What it does not have becomes a gap, unless the range is open:
/// if it ends at `u64::MAX`, the result ends where the log ends.
pub(super) async fn read(
    log: &Log,
    topic: &Topic,
    range: RangeInclusive<u64>,
    now: Timestamp,
) -> Result<Read, StoreError> {
    let to = *range.end();
    let mut next = *range.start();
    let mut pieces = Vec::new();
    let gap = |from, to| Piece::Gap { topic: topic.clone(), from, to, reason: GapReason::Expired };
    let mut bytes = 0;
    for entry in log.read(topic, next, to, READ_BYTES, now).await? {
        bytes += entry.bytes();
        let Some(entry) = entry.part(next..=to) else { continue };
        if entry.seq() > next {
            pieces.push(gap(next, entry.seq() - 1));
        }
        next = entry.last() + 1;
        pieces.push(piece(entry));
    }
    // The log stops reading after so many bytes.
    let is_cut = bytes >= READ_BYTES && next <= to;
    if !is_cut && to < u64::MAX && next <= to {
        pieces.push(gap(next, to));
    }
    Ok(Read { pieces, is_cut })
}

fn piece(entry: Entry) -> Piece {
    match entry {
        Entry::Frame(frame) => Piece::Frame(frame),
        Entry::Lost { topic, seq, last, is_logged } => {
            let reason = if is_logged { GapReason::Lagging } else { GapReason::Lost };
            Piece::Gap { topic, from: seq, to: last, reason }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replay_is_suggested_only_if_it_brings_the_events() {
        for (is_logged, expected) in [(true, GapReason::Lagging), (false, GapReason::Lost)] {
            let topic = Topic::mastodon_public();
            let piece = piece(Entry::Lost { topic, seq: 1, last: 2, is_logged });
            assert!(matches!(piece, Piece::Gap { reason, .. } if reason == expected));
        }
    }
}
