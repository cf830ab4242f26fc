//! The messages that `push` sends.

use bytes::Bytes;
use domain::{
    entry::Entry,
    frame::{self, Frame},
    protocol::{GapReason, Reply},
    push::{Job, Lost},
    topic::Topic,
};

/// The messages for all connections that have subscribed to the same topics of a job.
pub(super) struct Messages {
    pub gaps: Vec<Bytes>,
    /// Each message with the index of its first frame among the frames for these connections.
    pub events: Vec<(usize, Bytes)>,
}

impl Messages {
    /// Returns the messages for the parts of a job with these indexes. Lost ranges come before frames, in
    /// the indexes and in the messages.
    pub(super) fn new(job: &Job, chosen: &[usize]) -> Self {
        let gaps =
            chosen.iter().filter_map(|index| job.lost.get(*index)).map(lost_message).collect();
        let frames: Vec<Frame> = chosen
            .iter()
            .filter_map(|index| job.frames.get(index.checked_sub(job.lost.len())?))
            .cloned()
            .collect();
        let events = frame::runs(&frames)
            .into_iter()
            .map(|run| (run.start, frame::message(&frames[run])))
            .collect();
        Self { gaps, events }
    }
}

/// Returns the first message of the entries, and the number of entries that it contains.
pub(super) fn next_message(entries: &[Entry]) -> Option<(usize, Bytes)> {
    if let Entry::Lost { topic, seq, last } = entries.first()? {
        return Some((1, gap(topic, *seq, *last)));
    }
    let frames: Vec<&Frame> = entries
        .iter()
        .map_while(|entry| match entry {
            Entry::Frame(frame) => Some(frame),
            Entry::Lost { .. } => None,
        })
        .collect();
    let run = frame::runs(&frames).into_iter().next()?;
    Some((run.len(), frame::message(&frames[run])))
}

fn lost_message(lost: &Lost) -> Bytes {
    gap(&lost.topic, lost.from, lost.to)
}

fn gap(topic: &Topic, from: u64, to: u64) -> Bytes {
    Reply::Gap { topic: topic.clone(), from, to, reason: GapReason::Lagging }.to_json()
}
