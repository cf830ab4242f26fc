//! Entries of the log: runs of a topic's numbers, with or without their events.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use crate::{frame::Frame, topic::Topic};

/// An entry of the log: a run of numbers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Entry {
    /// The events with these numbers.
    Frame(Frame),
    /// Numbers without their events: those never arrived, or were dropped.
    Lost {
        /// Their topic.
        topic: Topic,
        /// The first number.
        seq: u64,
        /// The last number.
        last: u64,
        /// Whether the log has the events, so that a replay brings them: only the lane dropped them.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        is_logged: bool,
    },
}

impl Entry {
    /// Returns its topic.
    pub fn topic(&self) -> &Topic {
        match self {
            Self::Frame(frame) => frame.topic(),
            Self::Lost { topic, .. } => topic,
        }
    }

    /// Returns its first number.
    pub fn seq(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.seq(),
            Self::Lost { seq, .. } => *seq,
        }
    }

    /// Returns the part whose numbers are in `range`, or `None` if there is none.
    pub fn part(&self, range: RangeInclusive<u64>) -> Option<Self> {
        match self {
            Self::Frame(frame) => frame.part(range).map(Self::Frame),
            Self::Lost { topic, seq, last, is_logged } => {
                let is_logged = *is_logged;
                let seq = *seq.max(range.start());
                let last = *last.min(range.end());
                (seq <= last).then(|| Self::Lost { topic: topic.clone(), seq, last, is_logged })
            }
        }
    }

    /// Returns the size of its events on the wire, in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.json().len(),
            Self::Lost { .. } => 0,
        }
    }

    /// Returns its last number.
    pub fn last(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.last(),
            Self::Lost { last, .. } => *last,
        }
    }
}

/// The newest entry of a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// The entry itself.
    pub entry: Entry,
    /// The number of the newest snapshot, if the topic has snapshots.
    pub snapshot: Option<u64>,
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    #[test]
    fn an_entry_has_the_numbers_of_its_events_or_of_what_was_lost() {
        let topic = Topic::mastodon_public();
        let frame = Frame::new(topic.clone(), 5, Timestamp::UNIX_EPOCH, &["1", "2", "3"]);
        let lost = |seq, last| Entry::Lost { topic: topic.clone(), seq, last, is_logged: false };
        let (logged, missing) = (Entry::Frame(frame.clone()), lost(5, 7));
        for entry in [&logged, &missing] {
            assert_eq!((entry.topic(), entry.seq(), entry.last()), (&topic, 5, 7));
        }
        assert_eq!((logged.bytes(), missing.bytes()), (frame.json().len(), 0));
        let cases = [
            (1..=9, Some((5, 7))),
            (6..=6, Some((6, 6))),
            (7..=9, Some((7, 7))),
            (1..=4, None),
            (8..=9, None),
        ];
        for (range, expected) in cases {
            let part = logged.part(range.clone());
            assert_eq!(part.map(|it| (it.seq(), it.last())), expected, "case: {range:?}");
            let expected = expected.map(|(seq, last)| lost(seq, last));
            assert_eq!(missing.part(range.clone()), expected, "case: {range:?}");
        }
    }
}
