//! Keeps the order book of one product, and discards it when it may be wrong.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::{book::Book, message::Levels};

/// Levels on each side of our own snapshots.
const DEPTH: usize = 200;

/// How often a snapshot of a changing book is published.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(30);

/// Longest time that the exchange takes to send a requested snapshot.
const SNAPSHOT_WITHIN: Duration = Duration::from_secs(20);

/// Shortest delay before a snapshot is requested again.
const MIN_DELAY: Duration = Duration::from_secs(1);
/// Longest such delay. A snapshot can be larger than 1 MB.
const MAX_DELAY: Duration = Duration::from_secs(10);
/// Time without a request after which the delay is the shortest again.
const CALM: Duration = Duration::from_mins(1);

/// The book of one product, unless it may be wrong.
#[derive(Debug, Default)]
pub(super) struct Level2 {
    book: Option<Book>,
    /// The time of its last change, as the exchange wrote it.
    time: String,
    /// Whether it changed since the last snapshot.
    is_changed: bool,
    snapshot_at: Option<Instant>,
    /// When the pending snapshot was requested.
    asked_at: Option<Instant>,
    /// When to request a snapshot.
    ask_at: Option<Instant>,
    /// When a snapshot was last requested, and how long the next request has to wait.
    last_ask: Option<(Instant, Duration)>,
}

/// The result of an update.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Updated {
    /// It was applied and can be forwarded.
    Applied,
    /// There is no book.
    NoBook,
    /// It made a bid reach an ask, so the book was discarded.
    Crossed,
    /// It made the book too large, so the book was discarded.
    TooLarge,
}

impl Level2 {
    /// Starts from a snapshot of the exchange, unless it is not valid.
    pub(super) fn start(&mut self, levels: &Levels, time: Option<&str>, now: Instant) -> Updated {
        let book = Book::new(&levels.asks, &levels.bids);
        let is_crossed = book.is_crossed();
        if is_crossed || book.is_too_large() {
            self.doubt(now);
            return if is_crossed { Updated::Crossed } else { Updated::TooLarge };
        }
        self.book = Some(book);
        self.time.clear();
        self.set_time(time);
        self.asked_at = None;
        self.ask_at = None;
        self.is_changed = true;
        self.snapshot_at = None;
        Updated::Applied
    }

    /// Applies an update.
    pub(super) fn update(&mut self, levels: &Levels, time: Option<&str>, now: Instant) -> Updated {
        let Some(book) = &mut self.book else { return Updated::NoBook };
        book.apply(&levels.changes);
        if book.is_crossed() {
            self.doubt(now);
            return Updated::Crossed;
        }
        if book.is_too_large() {
            self.doubt(now);
            return Updated::TooLarge;
        }
        self.set_time(time);
        self.is_changed = true;
        Updated::Applied
    }

    /// Discards the book, if there is one, and schedules a request for a snapshot.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.book = None;
        self.asked_at = None;
        if self.ask_at.is_none() {
            self.ask_at = Some(match self.last_ask {
                Some((at, delay)) if now < at + CALM => now + delay,
                _ => now,
            });
        }
    }

    /// Returns whether there is a book.
    pub(super) fn is_sound(&self) -> bool {
        self.book.is_some()
    }

    /// Returns whether there is no book and no snapshot is requested.
    pub(super) fn is_idle(&self) -> bool {
        self.book.is_none() && self.asked_at.is_none() && self.ask_at.is_none()
    }

    /// Notes that a snapshot was requested.
    pub(super) fn asked(&mut self, now: Instant) {
        *self = Self { asked_at: Some(now), last_ask: self.last_ask, ..Self::default() };
    }

    /// Discards the book, because the connection was lost or the topic is not wanted.
    pub(super) fn forget(&mut self) {
        *self = Self { last_ask: self.last_ask, ..Self::default() };
    }

    /// Returns whether a snapshot must be requested. Returns `true` once for each request.
    pub(super) fn is_to_ask(&mut self, now: Instant) -> bool {
        if self.asked_at.is_some_and(|at| now >= at + SNAPSHOT_WITHIN) {
            self.doubt(now);
        }
        if self.ask_at.is_none_or(|at| now < at) {
            return false;
        }
        self.ask_at = None;
        let delay = match self.last_ask {
            Some((at, delay)) if now < at + CALM => (delay * 2).min(MAX_DELAY),
            _ => MIN_DELAY,
        };
        self.last_ask = Some((now, delay));
        true
    }

    /// Returns our own snapshot of the book, if one is due.
    pub(super) fn due_snapshot(&mut self, product: &str, now: Instant) -> Option<Bytes> {
        let is_due = self.snapshot_at.is_none_or(|at| now >= at + SNAPSHOT_EVERY);
        (is_due && self.is_changed).then(|| self.snapshot(product, now))?
    }

    /// Returns our own snapshot of the book.
    pub(super) fn snapshot(&mut self, product: &str, now: Instant) -> Option<Bytes> {
        let book = self.book.as_ref()?;
        self.is_changed = false;
        self.snapshot_at = Some(now);
        Some(book.snapshot(product, DEPTH, &self.time))
    }

    /// Stores a time, unless it is the zero time that some updates carry.
    fn set_time(&mut self, time: Option<&str>) {
        let is_time = |byte: u8| byte.is_ascii_digit() || b"-:.+TZ".contains(&byte);
        if let Some(time) = time
            && !time.starts_with("0001-")
            && time.bytes().all(is_time)
        {
            self.time.clear();
            self.time.push_str(time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::coinbase::message::Message;

    const SNAPSHOT: &str = r#"{"type":"snapshot","asks":[["2","1"]],"bids":[["1","1"]]}"#;

    fn levels(text: &str) -> Levels {
        let mut levels = Levels::default();
        Message::read(text, &mut levels).expect("a message");
        levels
    }

    fn update(price: &str) -> Levels {
        levels(&format!(r#"{{"type":"l2update","changes":[["buy","{price}","1"]]}}"#))
    }

    #[test]
    fn updates_are_applied_from_the_snapshot_until_the_book_is_crossed() {
        let mut level2 = Level2::default();
        let now = Instant::now();
        assert_eq!(level2.update(&update("1"), None, now), Updated::NoBook);
        assert_eq!(level2.start(&levels(SNAPSHOT), None, now), Updated::Applied);
        assert_eq!(level2.update(&update("1.5"), None, now), Updated::Applied);
        assert_eq!(level2.update(&update("2.0"), None, now), Updated::Crossed);
        assert_eq!(level2.update(&update("1.5"), None, now), Updated::NoBook);
        assert!(level2.is_to_ask(now));
        assert!(!level2.is_to_ask(now), "once");
        let crossed = levels(r#"{"type":"snapshot","asks":[["1","1"]],"bids":[["1","1"]]}"#);
        assert_eq!(level2.start(&crossed, None, now), Updated::Crossed);
        assert!(!level2.is_sound());
    }

    #[test]
    fn a_changed_book_gets_a_snapshot_periodically() {
        let mut level2 = Level2::default();
        let now = Instant::now();
        level2.start(&levels(SNAPSHOT), Some("2026-07-07T22:58:17.038046Z"), now);
        let json = level2.due_snapshot("A-B", now).expect("a snapshot at the start");
        let expected = r#"{"type":"snapshot","product_id":"A-B","asks":[["2","1"]],"bids":[["1","1"]],"time":"2026-07-07T22:58:17.038046Z"}"#;
        assert_eq!(json, expected.as_bytes());
        assert_eq!(level2.due_snapshot("A-B", now + SNAPSHOT_EVERY), None, "nothing changed");
        level2.update(&update("1.5"), Some("0001-01-01T00:00:00.000000Z"), now);
        assert_eq!(level2.due_snapshot("A-B", now + Duration::from_secs(29)), None);
        let json = level2.due_snapshot("A-B", now + SNAPSHOT_EVERY).expect("a snapshot");
        assert!(
            json.ends_with(
                br#""bids":[["1.5","1"],["1","1"]],"time":"2026-07-07T22:58:17.038046Z"}"#
            )
        );
        level2.update(&update("1.6"), Some("\" no time"), now);
        level2.update(&update("1.6"), Some("2026-07-07T23:00:00Z"), now);
        let json = level2.snapshot("A-B", now).expect("a snapshot");
        assert!(json.ends_with(br#""time":"2026-07-07T23:00:00Z"}"#));
    }

    #[test]
    fn repeated_requests_for_a_snapshot_back_off() {
        let mut level2 = Level2::default();
        let start = Instant::now();
        let mut asks = Vec::new();
        for tenth in 0..600 {
            let now = start + tenth * Duration::from_millis(100);
            level2.doubt(now);
            if level2.is_to_ask(now) {
                asks.push(tenth / 10);
                level2.asked(now);
            }
        }
        assert_eq!(asks, [0, 1, 3, 7, 15, 25, 35, 45, 55]);
        let later = start + Duration::from_mins(15);
        level2.doubt(later);
        assert!(level2.is_to_ask(later), "the last request was long ago");
    }

    #[test]
    fn a_snapshot_that_does_not_arrive_is_requested_again() {
        let mut level2 = Level2::default();
        let now = Instant::now();
        level2.asked(now);
        assert!(!level2.is_to_ask(now + Duration::from_secs(19)));
        assert!(level2.is_to_ask(now + SNAPSHOT_WITHIN));
    }

    #[test]
    fn a_book_that_grows_too_large_is_discarded() {
        let now = Instant::now();
        let mut level2 = Level2::default();
        level2.start(&levels(SNAPSHOT), None, now);
        let mut price = 10;
        let mut grow = |count: usize| {
            let changes = (0..count).map(|_| {
                price += 1;
                format!(r#"["sell","{price}","1"]"#)
            });
            let changes = changes.collect::<Vec<_>>().join(",");
            let update = levels(&format!(r#"{{"type":"l2update","changes":[{changes}]}}"#));
            level2.update(&update, None, now)
        };
        for _ in 0..24 {
            assert_eq!(grow(4_000), Updated::Applied);
        }
        assert_eq!(grow(4_000), Updated::TooLarge);
        assert_eq!(grow(1), Updated::NoBook);
    }

    #[test]
    fn a_message_with_too_many_levels_is_not_read() {
        let rows = r#"["1","1"]"#.to_owned() + &r#",["1","1"]"#.repeat(100_000);
        let text = format!(r#"{{"type":"snapshot","asks":[{rows}],"bids":[]}}"#);
        let mut levels = Levels::default();
        let error = Message::read(&text, &mut levels).expect_err("too many");
        assert!(error.to_string().contains("too many levels"), "{error}");
    }
}
