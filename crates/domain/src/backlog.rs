//! The pending frames of a connection that reads too slowly, in bounded memory.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::{Range, RangeInclusive},
};

use bytes::Bytes;

use crate::{
    frame::{self, Frame},
    protocol::{GapReason, Reply},
    topic::Topic,
};

/// Maximum size of the pending frames of one connection, in bytes.
pub const BACKLOG_BYTES: usize = 256 * 1024;

/// Frames that a connection could not receive yet, oldest first.
///
/// Of a conflating topic, only the newest event is kept. Above [`BACKLOG_BYTES`] the oldest frames are
/// dropped. Dropped events are reported as a `gap`.
#[derive(Debug, Default)]
pub struct Backlog {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// By topic, the numbers that were dropped. They are older than the topic's pending frames.
    lost: BTreeMap<Topic, RangeInclusive<u64>>,
}

impl Backlog {
    /// Returns whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.lost.is_empty()
    }

    /// Adds a frame after the pending ones.
    pub fn push(&mut self, frame: Frame) {
        let mut frame = frame;
        if frame.topic().kind().conflates() {
            if let Some(index) = self.frames.iter().position(|old| old.topic() == frame.topic()) {
                self.drop_frame(index);
            }
            if frame.seq() < frame.last() {
                self.lose(frame.topic().clone(), frame.seq()..=frame.last() - 1);
                frame = frame.part(frame.last()..=frame.last()).expect("a frame has a last event");
            }
        }
        self.bytes += frame.json().len();
        self.frames.push_back(frame);
        while self.bytes > BACKLOG_BYTES && self.frames.len() > 1 {
            self.drop_frame(0);
        }
    }

    /// Discards everything of topics that are not `wanted`, without reporting a gap.
    pub fn retain(&mut self, wanted: impl Fn(&Topic) -> bool) {
        self.frames.retain(|frame| wanted(frame.topic()));
        self.bytes = self.frames.iter().map(|frame| frame.json().len()).sum();
        self.lost.retain(|topic, _| wanted(topic));
    }

    /// Adds numbers that the connection will not receive.
    pub fn push_lost(&mut self, topic: Topic, range: RangeInclusive<u64>) {
        self.lose(topic, range);
    }

    /// Returns the next message to send: first the gaps, then the frames.
    pub fn next_message(&self) -> Option<Bytes> {
        if let Some((topic, range)) = self.lost.first_key_value() {
            let gap = Reply::Gap {
                topic: topic.clone(),
                from: *range.start(),
                to: *range.end(),
                reason: GapReason::Lagging,
            };
            return Some(gap.to_json());
        }
        let count = self.next_frames();
        (count > 0).then(|| {
            let frames: Vec<&Frame> = self.frames.iter().take(count).collect();
            frame::message(&frames)
        })
    }

    /// Removes the next message, which was sent.
    pub fn sent(&mut self) {
        if self.lost.pop_first().is_none() {
            for frame in self.frames.drain(..self.next_frames()) {
                self.bytes -= frame.json().len();
            }
        }
    }

    /// Returns the number of frames in the next message.
    fn next_frames(&self) -> usize {
        let frames: Vec<&Frame> = self.frames.iter().collect();
        frame::runs(&frames).first().map_or(0, Range::len)
    }

    fn drop_frame(&mut self, index: usize) {
        if let Some(frame) = self.frames.remove(index) {
            self.bytes -= frame.json().len();
            self.lose(frame.topic().clone(), frame.seq()..=frame.last());
        }
    }

    fn lose(&mut self, topic: Topic, range: RangeInclusive<u64>) {
        let lost = self.lost.entry(topic).or_insert_with(|| range.clone());
        *lost = *lost.start().min(range.start())..=*lost.end().max(range.end());
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;

    fn frame(topic: &str, seq: u64, events: &[String]) -> Frame {
        Frame::new(Topic::parse(topic).expect("a topic"), seq, Timestamp::UNIX_EPOCH, events)
    }

    /// Sends everything that is pending.
    fn drain(backlog: &mut Backlog) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(message) = backlog.next_message() {
            texts.push(String::from_utf8(message.to_vec()).expect("UTF-8"));
            backlog.sent();
        }
        assert!(backlog.is_empty());
        texts
    }

    #[test]
    fn only_the_newest_ticker_is_kept_and_the_rest_is_a_gap() {
        let mut backlog = Backlog::default();
        assert!(backlog.is_empty());
        backlog.push(frame("coinbase/ticker/BTC-USD", 4, &["4".into(), "5".into()]));
        backlog.push(frame("coinbase/matches/BTC-USD", 1, &["1".into(), "2".into()]));
        backlog.push(frame("coinbase/ticker/BTC-USD", 6, &["6".into()]));
        assert_eq!(
            drain(&mut backlog),
            [
                r#"{"type":"gap","topic":"coinbase/ticker/BTC-USD","from":4,"to":5,"reason":"lagging"}"#,
                concat!(
                    r#"{"type":"events","frames":["#,
                    r#"{"topic":"coinbase/matches/BTC-USD","seq":1,"at":"1970-01-01T00:00:00.000000Z","events":[1,2]},"#,
                    r#"{"topic":"coinbase/ticker/BTC-USD","seq":6,"at":"1970-01-01T00:00:00.000000Z","events":[6]}]}"#
                ),
            ]
        );
    }

    #[test]
    fn above_the_maximum_size_the_oldest_frames_become_a_gap() {
        let mut backlog = Backlog::default();
        let event = format!("\"{}\"", "x".repeat(10_000));
        for seq in 1..=1_000 {
            backlog.push(frame("mastodon/public", seq, std::slice::from_ref(&event)));
            assert!(backlog.bytes <= BACKLOG_BYTES);
        }
        let kept = backlog.frames.len() as u64;
        assert!(kept > 20);
        let gap = format!(r#""from":1,"to":{},"reason":"lagging""#, 1_000 - kept);
        assert_eq!(backlog.frames[0].seq(), 1_000 - kept + 1);
        let texts = drain(&mut backlog);
        assert!(texts[0].contains(&gap), "{}", texts[0]);
        assert!(texts.len() > 5, "it takes several messages: {}", texts.len());
    }

    #[test]
    fn a_single_event_larger_than_the_maximum_is_kept() {
        let mut backlog = Backlog::default();
        backlog.push(frame("mastodon/public", 1, &["1".into()]));
        backlog.push(frame("mastodon/public", 2, &["x".repeat(BACKLOG_BYTES)]));
        assert_eq!(backlog.frames.len(), 1);
        assert!(!backlog.is_empty());
    }

    #[test]
    fn topics_that_are_no_longer_wanted_are_discarded_without_a_gap() {
        let keep = "coinbase/matches/BTC-USD";
        let drop = "coinbase/matches/ETH-USD";
        let mut backlog = Backlog::default();
        backlog.push(frame(drop, 1, &["1".into()]));
        backlog.push(frame(keep, 1, &["1".into()]));
        backlog.push_lost(Topic::parse(drop).expect("a topic"), 2..=3);
        backlog.retain(|topic| topic.as_str() == keep);
        let sent = drain(&mut backlog);
        assert_eq!(sent.len(), 1, "{sent:?}");
        assert!(sent[0].contains(keep) && !sent[0].contains(drop), "{sent:?}");
        assert_eq!(backlog.bytes, 0);
    }
}
