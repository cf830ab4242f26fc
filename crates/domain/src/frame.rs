//! Frames: runs of a topic's events with consecutive numbers, serialized once for all subscribers.

use std::ops::{Range, RangeInclusive};

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use serde_json::value::RawValue;

use crate::topic::Topic;

/// Target size of a message, in bytes. API Gateway bills in steps of 32 KB and splits frames there.
pub const MESSAGE_BYTES: usize = 32 * 1024;

/// Maximum size of an event, in bytes. API Gateway rejects messages over 128 KB; the rest is for the frame
/// around the event.
pub const MAX_EVENT_BYTES: usize = 120 * 1024;

/// The part of an `events` message before its frames.
const MESSAGE_HEAD: &[u8] = br#"{"type":"events","frames":["#;
/// The part of an `events` message after its frames.
const MESSAGE_TAIL: &[u8] = b"]}";
/// Maximum size of a frame with several events, in bytes, so that it fits in a message.
const FRAME_BYTES: usize = MESSAGE_BYTES - MESSAGE_HEAD.len() - MESSAGE_TAIL.len();

/// A run of one topic's events, numbered `seq..=last`, with its wire form.
///
/// A clone shares the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    topic: Topic,
    seq: u64,
    last: u64,
    at: Timestamp,
    json: Bytes,
}

/// Why bytes are not a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The bytes are not JSON, or do not have the shape of a frame.
    #[error("frame does not have the shape topic, seq, at, events")]
    Shape(#[from] serde_json::Error),
    /// The frame has no events, its first number is 0, or its numbers overflow.
    #[error("frame has no events or no valid numbers")]
    Empty,
}

/// The parts of a frame's wire form.
#[derive(Deserialize)]
struct Wire<'a> {
    topic: Topic,
    seq: u64,
    at: Timestamp,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

impl Frame {
    /// Makes a frame of `events`, which are JSON objects. The first one has the number `seq`.
    ///
    /// # Panics
    ///
    /// If there are no events.
    pub fn new<E: AsRef<[u8]>>(topic: Topic, seq: u64, at: Timestamp, events: &[E]) -> Self {
        assert!(!events.is_empty(), "a frame has events");
        let size = events.iter().map(|event| event.as_ref().len() + 1).sum::<usize>();
        let mut json = BytesMut::with_capacity(head_bytes(&topic) + size);
        json.put_slice(br#"{"topic":""#);
        json.put_slice(topic.as_str().as_bytes()); // A topic has no character that JSON escapes.
        json.put_slice(format!(r#"","seq":{seq},"at":"{at:.6}","events":["#).as_bytes());
        for (index, event) in events.iter().enumerate() {
            if index > 0 {
                json.put_u8(b',');
            }
            json.put_slice(event.as_ref());
        }
        json.put_slice(b"]}");
        Self { topic, seq, last: seq + events.len() as u64 - 1, at, json: json.freeze() }
    }

    /// Numbers `events` from `seq`, and packs them into as few frames as the size of a message allows.
    ///
    /// An event that is too large to share a message gets a frame of its own.
    pub fn pack<E: AsRef<[u8]>>(topic: &Topic, seq: u64, at: Timestamp, events: &[E]) -> Vec<Self> {
        let head = head_bytes(topic);
        let mut frames = Vec::new();
        let mut start = 0;
        let mut size = head;
        for (index, event) in events.iter().enumerate() {
            let bytes = event.as_ref().len() + 1;
            if index > start && size + bytes > FRAME_BYTES {
                frames.push(Self::new(
                    topic.clone(),
                    seq + start as u64,
                    at,
                    &events[start..index],
                ));
                (start, size) = (index, head);
            }
            size += bytes;
        }
        if start < events.len() {
            frames.push(Self::new(topic.clone(), seq + start as u64, at, &events[start..]));
        }
        frames
    }

    /// Parses the wire form of a frame.
    ///
    /// # Errors
    ///
    /// [`FrameError`] when the bytes are not a frame.
    pub fn from_json(json: Bytes) -> Result<Self, FrameError> {
        let wire: Wire<'_> = serde_json::from_slice(&json)?;
        if wire.events.is_empty() || wire.seq == 0 {
            return Err(FrameError::Empty);
        }
        let end = wire.seq.checked_add(wire.events.len() as u64).ok_or(FrameError::Empty)?;
        Ok(Self { topic: wire.topic, seq: wire.seq, last: end - 1, at: wire.at, json })
    }

    /// Returns the topic of its events.
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// Returns the number of its first event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Returns the number of its last event.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Returns when it was made.
    pub fn at(&self) -> Timestamp {
        self.at
    }

    /// Returns the wire form: `{"topic","seq","at","events":[…]}`.
    pub fn json(&self) -> &Bytes {
        &self.json
    }

    /// Returns its events as JSON texts, each with its number.
    pub fn events(&self) -> Vec<(u64, Bytes)> {
        let wire: Wire<'_> =
            serde_json::from_slice(&self.json).expect("the wire form of a frame is valid");
        let events = wire.events.iter().map(|event| self.json.slice_ref(event.get().as_bytes()));
        (self.seq..).zip(events).collect()
    }

    /// Returns the part whose numbers are in `range`, or `None` if there is none.
    pub fn part(&self, range: RangeInclusive<u64>) -> Option<Self> {
        if *range.start() <= self.seq && *range.end() >= self.last {
            return Some(self.clone());
        }
        let first = self.seq.max(*range.start());
        let events: Vec<Bytes> = self
            .events()
            .into_iter()
            .filter(|(seq, _)| range.contains(seq))
            .map(|(_, event)| event)
            .collect();
        (!events.is_empty()).then(|| Self::new(self.topic.clone(), first, self.at, &events))
    }

    /// Returns the frame with event `seq` replaced, or unchanged if it has no such event.
    #[must_use]
    pub fn with_event(&self, seq: u64, event: &Bytes) -> Self {
        let events = self.events().into_iter();
        let events: Vec<Bytes> =
            events.map(|(n, old)| if n == seq { event.clone() } else { old }).collect();
        Self::new(self.topic.clone(), self.seq, self.at, &events)
    }
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.json
    }
}

impl Serialize for Frame {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let json: &RawValue =
            serde_json::from_slice(&self.json).expect("the wire form of a frame is valid");
        json.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Frame {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json: Box<RawValue> = Box::deserialize(deserializer)?;
        Self::from_json(Bytes::from(String::from(Box::<str>::from(json)))).map_err(D::Error::custom)
    }
}

/// Returns an upper bound for the size of a frame of `topic` without its events, in bytes.
fn head_bytes(topic: &Topic) -> usize {
    topic.as_str().len() + 96
}

/// Splits frames into runs that each fit in an `events` message. Keeps the order, and makes as few runs as
/// possible.
///
/// Takes the wire forms of the frames. A frame above the target size of a message is a run of its own.
pub fn runs<F: AsRef<[u8]>>(frames: &[F]) -> Vec<Range<usize>> {
    let mut runs = Vec::new();
    let mut start = 0;
    while start < frames.len() {
        let mut size = MESSAGE_HEAD.len() + MESSAGE_TAIL.len() + frames[start].as_ref().len();
        let mut end = start + 1;
        while end < frames.len() && size + 1 + frames[end].as_ref().len() <= MESSAGE_BYTES {
            size += 1 + frames[end].as_ref().len();
            end += 1;
        }
        runs.push(start..end);
        start = end;
    }
    runs
}

/// Makes the `events` message of a run of frames, from their wire forms.
pub fn message<F: AsRef<[u8]>>(frames: &[F]) -> Bytes {
    let size = frames.iter().map(|frame| frame.as_ref().len() + 1).sum::<usize>();
    let mut message = BytesMut::with_capacity(MESSAGE_HEAD.len() + size + MESSAGE_TAIL.len());
    message.put_slice(MESSAGE_HEAD);
    for (index, frame) in frames.iter().enumerate() {
        if index > 0 {
            message.put_u8(b',');
        }
        message.put_slice(frame.as_ref());
    }
    message.put_slice(MESSAGE_TAIL);
    message.freeze()
}

/// Packs frames, given in their wire forms, into as few `events` messages as their sizes allow.
pub fn messages<F: AsRef<[u8]>>(frames: &[F]) -> Vec<Bytes> {
    runs(frames).into_iter().map(|run| message(&frames[run])).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic() -> Topic {
        Topic::parse("coinbase/matches/BTC-USD").expect("a topic")
    }

    fn at() -> Timestamp {
        "2026-11-22T10:00:00.123456Z".parse().expect("a time")
    }

    #[test]
    fn the_wire_form_is_the_documented_one() {
        let frame = Frame::new(topic(), 1042, at(), &[r#"{"type":"match"}"#, r#"{"a": 1}"#]);
        let expected = concat!(
            r#"{"topic":"coinbase/matches/BTC-USD","seq":1042,"at":"2026-11-22T10:00:00.123456Z","#,
            r#""events":[{"type":"match"},{"a": 1}]}"#
        );
        assert_eq!(frame.json(), expected);
        assert_eq!(
            messages(&[frame.json(), frame.json()]),
            [format!(r#"{{"type":"events","frames":[{expected},{expected}]}}"#)]
        );
    }

    #[test]
    fn bytes_that_are_not_a_frame_are_rejected() {
        for text in [
            "",
            "{}",
            "[]",
            r#"{"topic":"x","seq":1,"at":"2026-11-22T10:00:00Z","events":[{}]}"#,
            r#"{"topic":"mastodon/public","seq":1,"at":"2026-11-22T10:00:00Z","events":[]}"#,
            r#"{"topic":"mastodon/public","seq":0,"at":"2026-11-22T10:00:00Z","events":[{}]}"#,
        ] {
            assert!(Frame::from_json(Bytes::from(text)).is_err(), "case: {text}");
        }
    }

    #[test]
    fn a_frame_and_a_message_are_filled_before_the_next_one_begins() {
        let events = vec!["9".repeat(100); 1_000];
        let frames = Frame::pack(&topic(), 1, at(), &events);
        for frame in &frames[..frames.len() - 1] {
            let left = MESSAGE_BYTES - message(&[frame.json()]).len();
            // Less than an event, and what the estimate of the frame's head is too large by.
            assert!(left < 101 + 100, "{left} bytes are left");
        }
        let around = MESSAGE_HEAD.len() + MESSAGE_TAIL.len();
        let rest = MESSAGE_BYTES - around - "aaa,bb,".len();
        let fitting = ["aaa".to_owned(), "bb".to_owned(), "c".repeat(rest)];
        assert_eq!(messages(&fitting).len(), 1);
        assert_eq!(messages(&fitting)[0].len(), MESSAGE_BYTES);
        let larger = ["aaa".to_owned(), "bb".to_owned(), "c".repeat(rest + 1)];
        assert_eq!(runs(&larger), [0..2, 2..3]);
    }

    fn event() -> impl Strategy<Value = String> {
        (0..40_000_usize, 0..4).prop_map(|(size, kind)| {
            let size = if kind == 0 { size } else { size / 100 };
            format!(r#"{{"text":"{}"}}"#, "x".repeat(size))
        })
    }

    proptest! {
        #[test]
        fn packing_keeps_order_numbers_and_sizes(
            events in prop::collection::vec(event(), 1..60), first in 1..1_000_000_u64,
        ) {
            let frames = Frame::pack(&topic(), first, at(), &events);
            let mut next = first;
            let mut texts = Vec::new();
            for frame in &frames {
                prop_assert_eq!(frame.seq(), next);
                next = frame.last() + 1;
                prop_assert_eq!(&Frame::from_json(frame.json().clone()).expect("a frame"), frame);
                prop_assert!(
                    message(&[frame.json()]).len() <= MESSAGE_BYTES || frame.seq() == frame.last()
                );
                texts.extend(frame.events().into_iter().map(|(_, event)| event));
            }
            prop_assert_eq!(texts, events);

            let wires: Vec<&Bytes> = frames.iter().map(Frame::json).collect();
            for message in messages(&wires) {
                let one = message.windows(7).filter(|w| *w == b"\"topic\"").count() == 1;
                prop_assert!(message.len() <= MESSAGE_BYTES || one);
            }
        }

        #[test]
        fn no_bytes_make_a_frame_that_panics(
            text in "\\{\"topic\":\"(mastodon/public|x)\",\"seq\":(0|1|7|18446744073709551615|-1),\"at\":\"2026-11-22T10:00:0[0-9]Z\",\"events\":\\[(1|\\{\\}|null)(,[0-9]){0,3}\\]\\}|\\PC{0,60}",
            from in 0..9_u64,
        ) {
            if let Ok(frame) = Frame::from_json(Bytes::from(text)) {
                prop_assert!(frame.seq() <= frame.last());
                prop_assert_eq!(frame.events().len() as u64, frame.last() - frame.seq() + 1);
                let _ = frame.part(from..=from + 2);
                let again = Frame::from_json(frame.json().clone()).expect("a frame");
                prop_assert_eq!(again, frame);
            }
        }

        #[test]
        fn a_part_has_the_events_of_its_range(count in 1..20_u64, from in 1..30_u64, to in 1..30_u64) {
            let events: Vec<String> = (10..10 + count).map(|n| n.to_string()).collect();
            let frame = Frame::new(topic(), 10, at(), &events);
            let expected: Vec<u64> = (10..10 + count).filter(|n| (from..=to).contains(n)).collect();
            let part = frame.part(from..=to);
            let numbers: Vec<u64> = part.iter().flat_map(Frame::events).map(|(seq, event)| {
                assert_eq!(event, seq.to_string());
                seq
            }).collect();
            prop_assert_eq!(numbers, expected);
        }
    }

    #[test]
    fn messages_and_frames_are_filled_to_their_sizes() {
        assert_eq!((MESSAGE_BYTES, MAX_EVENT_BYTES), (32_768, 122_880));
        let around = message(&[""]).len();
        for (second, expected) in [(1_000, 1), (1_001, 2)] {
            let first = "x".repeat(MESSAGE_BYTES - around - 1 - 1_000);
            let messages = messages(&[first, "y".repeat(second)]);
            assert_eq!(messages.len(), expected, "case: {second}");
            assert!(messages.iter().all(|message| message.len() <= MESSAGE_BYTES));
            assert!(expected == 2 || messages[0].len() == MESSAGE_BYTES);
        }
        let frame = Frame::new(topic(), u64::MAX - 1, at(), &["1"]);
        assert!(frame.json().len() < head_bytes(&topic()) + 2, "the bound holds for large numbers");
        let room = FRAME_BYTES - head_bytes(&topic());
        for (second, expected) in [(1_000, 1), (1_001, 2)] {
            let events = ["1".repeat(room - 1_000 - 2), "2".repeat(second)];
            let frames = Frame::pack(&topic(), 1, at(), &events);
            assert_eq!(frames.len(), expected, "case: {second}");
        }
        assert_eq!(Frame::pack(&topic(), 1, at(), &[] as &[&str]), []);
    }

    #[test]
    fn a_frame_knows_its_time_and_its_bytes() {
        let frame = Frame::new(topic(), 5, at(), &["1"]);
        assert_eq!(frame.at(), at());
        assert_eq!(frame.as_ref(), &frame.json()[..]);
    }

    #[test]
    fn an_event_can_be_replaced() {
        let frame = Frame::new(topic(), 5, at(), &["1", "2", "3"]);
        let replaced = frame.with_event(6, &Bytes::from_static(b"{}"));
        assert_eq!(replaced, Frame::new(topic(), 5, at(), &["1", "{}", "3"]));
        assert_eq!(frame.with_event(9, &Bytes::from_static(b"{}")), frame);
    }
}
