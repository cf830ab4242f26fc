//! The messages that `push` sends.

use std::collections::BTreeMap;

use bytes::Bytes;
use domain::{
    frame::{self, Frame},
    protocol::{GapReason, Reply},
    topic::Topic,
};

/// A part of what a topic's subscribers are sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Events.
    Frame(Frame),
    /// Numbers whose events are not sent.
    Gap { topic: Topic, from: u64, to: u64, reason: GapReason },
}

impl Piece {
    /// Returns its last number.
    pub(super) fn last(&self) -> u64 {
        match self {
            Self::Frame(frame) => frame.last(),
            Self::Gap { to, .. } => *to,
        }
    }

    /// Returns the part from a number on, or `None` if there is none.
    pub(super) fn from(&self, seq: u64) -> Option<Self> {
        match self {
            Self::Frame(frame) => frame.part(seq..=u64::MAX).map(Self::Frame),
            Self::Gap { topic, from, to, reason } => (*to >= seq).then(|| {
                let from = (*from).max(seq);
                Self::Gap { topic: topic.clone(), from, to: *to, reason: *reason }
            }),
        }
    }

    /// Returns the size of its events, in bytes.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Frame(frame) => frame.json().len(),
            Self::Gap { .. } => 0,
        }
    }
}

/// A message, and where a connection is after it.
#[derive(Clone, Debug)]
pub(super) struct Message {
    /// The text of the message.
    pub(super) bytes: Bytes,
    /// By topic, the first number of the message.
    pub(super) starts: BTreeMap<Topic, u64>,
}

/// Packs pieces into as few messages as possible. The pieces of each topic stay in order.
pub(super) fn messages<'a>(pieces: impl IntoIterator<Item = &'a Piece>) -> Vec<Message> {
    let mut messages = Vec::new();
    let mut frames: Vec<&Frame> = Vec::new();
    for piece in pieces {
        match piece {
            Piece::Frame(frame) => frames.push(frame),
            Piece::Gap { topic, from, to, reason } => {
                flush(&mut frames, &mut messages);
                let gap =
                    Reply::Gap { topic: topic.clone(), from: *from, to: *to, reason: *reason };
                let starts = BTreeMap::from([(topic.clone(), *from)]);
                messages.push(Message { bytes: gap.to_json(), starts });
            }
        }
    }
    flush(&mut frames, &mut messages);
    messages
}

fn flush(frames: &mut Vec<&Frame>, messages: &mut Vec<Message>) {
    for run in frame::runs(frames) {
        let mut starts = BTreeMap::new();
        for frame in &frames[run.clone()] {
            starts.entry(frame.topic().clone()).or_insert(frame.seq());
        }
        messages.push(Message { bytes: frame::message(&frames[run]), starts });
    }
    frames.clear();
}

/// Returns where a connection is that has not accepted these messages: by topic, the next number to
/// send.
pub(super) fn positions(messages: &[Message]) -> BTreeMap<Topic, u64> {
    let mut next = BTreeMap::new();
    for message in messages {
        for (topic, seq) in &message.starts {
            next.entry(topic.clone()).or_insert(*seq);
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn topic(tag: &str) -> Topic {
        Topic::mastodon_tag(tag).expect("a topic")
    }

    fn frame(tag: &str, seq: u64, bytes: usize) -> Piece {
        let event = format!("\"{}\"", "x".repeat(bytes));
        Piece::Frame(Frame::new(topic(tag), seq, Timestamp::UNIX_EPOCH, &[event]))
    }

    #[test]
    fn a_gap_is_sent_between_the_events_around_it() {
        let gap = Piece::Gap { topic: topic("a"), from: 2, to: 4, reason: GapReason::Lagging };
        let pieces = [frame("a", 1, 1), gap, frame("a", 5, 1), frame("b", 9, 1)];
        let messages = messages(&pieces);
        let starts: Vec<Vec<u64>> =
            messages.iter().map(|it| it.starts.values().copied().collect()).collect();
        assert_eq!(starts, [vec![1], vec![2], vec![5, 9]]);
        let after_the_first = positions(&messages[1..]);
        assert_eq!(after_the_first, BTreeMap::from([(topic("a"), 2), (topic("b"), 9)]));
        assert_eq!(positions(&[]), BTreeMap::new());
    }

    #[test]
    fn many_events_take_several_messages() {
        let pieces = [frame("a", 1, 20_000), frame("a", 2, 20_000), frame("b", 1, 20_000)];
        let messages = messages(&pieces);
        assert_eq!(messages.len(), 3);
        let behind = positions(&messages[1..]);
        assert_eq!(behind, BTreeMap::from([(topic("a"), 2), (topic("b"), 1)]));
    }
}
