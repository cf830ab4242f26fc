//! Entries of the log: runs of a topic's numbers, with or without their events.

use crate::{frame::Frame, topic::Topic};

/// An entry of the log: a run of numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The events with these numbers.
    Frame(Frame),
    /// Numbers whose events were dropped before they could be written.
    Lost {
        /// Their topic.
        topic: Topic,
        /// The first number.
        seq: u64,
        /// The last number.
        last: u64,
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
