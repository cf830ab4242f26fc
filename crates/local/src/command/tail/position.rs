//! The position in a topic: drops duplicates, finds missing events, and restores the order.

use std::{collections::BTreeMap, ops::RangeInclusive, time::Duration};

use domain::topic::Topic;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::Instant;

/// How long an event may take after its number is known.
const TAIL_OVERDUE: Duration = Duration::from_secs(3);

/// How long a replay may take.
const REPLAY_OVERDUE: Duration = Duration::from_secs(5);

/// How often missing events are requested.
const MAX_REQUESTS: u32 = 3;

/// The most events that the server replays at a time.
const MAX_REPLAY: u64 = 10_000;

/// The most frames and gaps that are held until the events before them arrive.
const MAX_HELD: usize = 10_000;

/// Consecutive events of a topic.
#[derive(Debug, Deserialize)]
pub(super) struct Frame {
    pub topic: Topic,
    pub seq: u64,
    pub at: Timestamp,
    pub events: Vec<Box<RawValue>>,
}

/// What is printed of a topic, in order.
#[derive(Debug)]
pub(super) enum Line {
    Event {
        seq: u64,
        at: Timestamp,
        event: Box<RawValue>,
    },
    /// Events that will not arrive, and why.
    Missing {
        from: u64,
        to: u64,
        reason: String,
    },
}

/// A piece of a topic, as it arrives.
#[derive(Debug)]
enum Piece {
    Events(Frame),
    Gap { to: u64, reason: String },
}

impl Piece {
    /// Returns its last number, given its first one.
    fn last(&self, seq: u64) -> u64 {
        match self {
            Self::Events(frame) => (seq + frame.events.len() as u64).saturating_sub(1),
            Self::Gap { to, .. } => *to,
        }
    }
}

/// Missing events that were requested.
#[derive(Debug)]
struct Request {
    to: u64,
    at: Instant,
    count: u32,
}

/// The position in a topic.
#[derive(Debug, Default)]
pub(super) struct Position {
    /// The last number that was printed; `None` before the subscription has started.
    seq: Option<u64>,
    /// The newest number at the start, until the first event. Fewer events up to it than requested are
    /// not missing.
    start: Option<u64>,
    /// Pieces behind missing events, by their first numbers.
    held: BTreeMap<u64, Piece>,
    request: Option<Request>,
    /// The newest number of the server, and since when the events up to it have not made progress.
    tail: Option<(u64, Instant)>,
}

impl Position {
    /// Returns the last number that was printed.
    pub(super) fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// Starts with the `last` newest events, unless the position is known.
    pub(super) fn start(&mut self, head: u64, last: u64) {
        if self.seq.is_none() {
            self.seq = Some(head.saturating_sub(last));
            self.start = Some(head);
        }
    }

    /// Continues after number `head` of another log.
    pub(super) fn reset(&mut self, head: u64) {
        *self = Self { seq: Some(head), ..Self::default() };
    }

    /// Forgets what was on its way on a connection that has ended.
    pub(super) fn disconnect(&mut self) {
        *self = Self { seq: self.seq, start: self.start, ..Self::default() };
    }

    /// Takes a frame, and returns what can be printed.
    pub(super) fn offer(&mut self, frame: Frame, now: Instant) -> Vec<Line> {
        if self.start.is_some_and(|head| frame.seq <= head + 1) {
            self.seq = self.seq.max(Some(frame.seq.saturating_sub(1)));
        }
        self.start = None;
        self.accept(frame.seq, Piece::Events(frame), now)
    }

    /// Takes a gap, and returns what can be printed.
    pub(super) fn skip(&mut self, from: u64, to: u64, reason: String, now: Instant) -> Vec<Line> {
        self.accept(from, Piece::Gap { to, reason }, now)
    }

    /// Takes the newest number of the server.
    pub(super) fn announce(&mut self, head: u64, now: Instant) {
        let Some(seq) = self.seq else { return };
        let since = self.tail.map_or(now, |(_, since)| since);
        self.tail = (head > seq).then_some((head, since));
    }

    /// Returns the numbers to request from the server, if some are missing for too long.
    pub(super) fn request(&mut self, now: Instant) -> Option<RangeInclusive<u64>> {
        let seq = self.seq?;
        let hole = self.held.keys().next().map(|first| first - 1);
        let tail =
            self.tail.filter(|(_, since)| now >= *since + TAIL_OVERDUE).map(|(head, _)| head);
        let to = hole.or(tail)?.min(seq + MAX_REPLAY);
        let count = match &self.request {
            Some(request) if now < request.at + REPLAY_OVERDUE || request.count >= MAX_REQUESTS => {
                return None;
            }
            Some(request) => request.count + 1,
            None => 1,
        };
        self.request = Some(Request { to, at: now, count });
        Some(seq + 1..=to)
    }

    /// Stops waiting for events that were requested several times, and returns what can be printed.
    pub(super) fn give_up(&mut self, now: Instant) -> Vec<Line> {
        let is_over =
            |request: &Request| request.count >= MAX_REQUESTS && now >= request.at + REPLAY_OVERDUE;
        let is_full = self.held.len() > MAX_HELD;
        let lost_to = match &self.request {
            Some(request) if is_full || is_over(request) => request.to,
            Some(_) | None => return Vec::new(),
        };
        let from = self.seq.map_or(1, |seq| seq + 1);
        self.skip(from, lost_to, "the server did not send them".to_owned(), now)
    }

    fn accept(&mut self, seq: u64, piece: Piece, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        let before = *self.seq.get_or_insert(seq.saturating_sub(1));
        if piece.last(seq) <= before {
            return lines;
        }
        self.held.insert(seq, piece);
        while let Some(entry) = self.held.first_entry() {
            let printed = self.seq.unwrap_or(0);
            let first = *entry.key();
            if first > printed + 1 {
                break;
            }
            let piece = entry.remove();
            let last = piece.last(first);
            if last <= printed {
                continue;
            }
            self.seq = Some(last);
            match piece {
                Piece::Events(Frame { at, events, .. }) => {
                    let events = (first..).zip(events).filter(|(seq, _)| *seq > printed);
                    lines.extend(events.map(|(seq, event)| Line::Event { seq, at, event }));
                }
                Piece::Gap { to, reason } => {
                    let start = self.start.map_or(0, |head| head);
                    let from = printed.max(start.min(to)) + 1;
                    if from <= to {
                        lines.push(Line::Missing { from, to, reason });
                    }
                }
            }
        }
        if self.seq > Some(before) {
            let seq = self.seq.unwrap_or(0);
            self.request = self.request.take().filter(|request| request.to > seq);
            self.tail = self.tail.filter(|(head, _)| *head > seq).map(|(head, _)| (head, now));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn frame(seq: u64, count: u64) -> Frame {
        let event = |seq: u64| RawValue::from_string(seq.to_string()).expect("JSON");
        Frame {
            topic: Topic::mastodon_public(),
            seq,
            at: Timestamp::UNIX_EPOCH,
            events: (seq..seq + count).map(event).collect(),
        }
    }

    /// Describes lines, and checks that each event has its number.
    fn describe(lines: Vec<Line>) -> String {
        let lines = lines.into_iter().map(|line| match line {
            Line::Event { seq, event, .. } => {
                assert_eq!(event.get(), seq.to_string());
                seq.to_string()
            }
            Line::Missing { from, to, reason } => format!("{from}-{to} {reason}"),
        });
        lines.collect::<Vec<_>>().join(", ")
    }

    fn at(seq: u64) -> Position {
        let mut position = Position::default();
        position.start(seq, 0);
        position
    }

    #[test]
    fn events_are_printed_once_and_in_order() {
        let now = Instant::now();
        let mut position = at(4);
        assert_eq!(describe(position.offer(frame(5, 2), now)), "5, 6");
        assert_eq!(describe(position.offer(frame(5, 3), now)), "7");
        assert_eq!(describe(position.offer(frame(1, 3), now)), "");
        // A hole is requested once, and the events behind it wait.
        assert_eq!(describe(position.offer(frame(10, 2), now)), "");
        assert_eq!(position.request(now), Some(8..=9));
        assert_eq!(position.request(now), None);
        assert_eq!(describe(position.offer(frame(12, 1), now)), "");
        assert_eq!(describe(position.offer(frame(8, 1), now)), "8");
        assert_eq!(
            describe(position.skip(9, 9, "expired".to_owned(), now)),
            "9-9 expired, 10, 11, 12"
        );
        assert_eq!(position.request(now + SECOND * 60), None);
    }

    #[test]
    fn the_last_events_of_a_topic_are_requested_if_they_do_not_arrive() {
        let now = Instant::now();
        let mut position = at(4);
        position.announce(4, now);
        assert_eq!(position.request(now + SECOND * 60), None, "nothing is missing");
        position.announce(7, now);
        assert_eq!(position.request(now + SECOND), None, "the events may be on their way");
        position.announce(7, now + SECOND * 2);
        assert_eq!(position.request(now + SECOND * 3), Some(5..=7));
        assert_eq!(position.request(now + SECOND * 4), None);
        assert_eq!(describe(position.offer(frame(5, 3), now + SECOND * 4)), "5, 6, 7");
        assert_eq!(position.request(now + SECOND * 60), None);
        // Events that arrive restart the wait.
        position.announce(10, now);
        assert_eq!(describe(position.offer(frame(8, 1), now + SECOND * 2)), "8");
        assert_eq!(position.request(now + SECOND * 3), None);
        assert_eq!(position.request(now + SECOND * 5), Some(9..=10));
    }

    #[test]
    fn a_replay_that_does_not_arrive_is_repeated_and_then_reported() {
        let mut now = Instant::now();
        let mut position = at(0);
        position.offer(frame(3, 1), now);
        for _ in 0..MAX_REQUESTS {
            assert_eq!(position.request(now), Some(1..=2));
            assert_eq!(describe(position.give_up(now)), "");
            now += REPLAY_OVERDUE;
        }
        assert_eq!(position.request(now), None);
        assert_eq!(describe(position.give_up(now)), "1-2 the server did not send them, 3");
    }

    #[test]
    fn another_log_starts_over() {
        let now = Instant::now();
        for head in [0, 7, 50, 60] {
            let mut position = at(50);
            position.offer(frame(53, 1), now);
            position.reset(head);
            assert_eq!(position.request(now + SECOND * 60), None);
            let next = head + 1;
            assert_eq!(describe(position.offer(frame(next, 1), now)), next.to_string());
        }
    }

    #[test]
    fn fewer_of_the_newest_events_than_requested_are_not_missing() {
        let now = Instant::now();
        let start = || {
            let mut position = Position::default();
            position.start(100, 10);
            position
        };
        assert_eq!(describe(start().offer(frame(97, 4), now)), "97, 98, 99, 100");
        assert_eq!(describe(start().skip(91, 101, "expired".to_owned(), now)), "101-101 expired");
        let mut position = start();
        assert_eq!(describe(position.offer(frame(103, 1), now)), "");
        assert_eq!(position.request(now), Some(91..=102));
    }

    #[test]
    fn a_new_connection_requests_what_the_old_one_did_not_deliver() {
        let now = Instant::now();
        let mut position = at(4);
        position.offer(frame(6, 1), now);
        position.request(now);
        position.disconnect();
        assert_eq!((position.seq(), position.request(now)), (Some(4), None));
        assert_eq!(describe(position.offer(frame(5, 2), now)), "5, 6");
    }
}
