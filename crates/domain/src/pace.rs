//! Rate limits: a token bucket that reads no clock.

use std::time::{Duration, Instant};

use jiff::Timestamp;

/// A point in time that a [`TokenBucket`] can calculate with.
pub trait Moment: Copy + Ord {
    /// Returns the time from `earlier` to `self`; zero if `earlier` is later.
    fn since(self, earlier: Self) -> Duration;

    /// Returns the moment `duration` after `self`.
    #[must_use]
    fn after(self, duration: Duration) -> Self;
}

impl Moment for Instant {
    fn since(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }

    fn after(self, duration: Duration) -> Self {
        self + duration
    }
}

impl Moment for Timestamp {
    fn since(self, earlier: Self) -> Duration {
        Duration::try_from(self.duration_since(earlier)).unwrap_or_default()
    }

    fn after(self, duration: Duration) -> Self {
        self.checked_add(duration).unwrap_or(Self::MAX)
    }
}

/// A token bucket: full at first, refilled at a constant rate up to its burst.
///
/// It stores one time, at which the bucket is full again (the generic cell rate algorithm). The
/// caller passes the current time. For `tokio::time::Instant`, pass `Instant::now().into_std()`.
#[derive(Clone, Debug)]
pub struct TokenBucket<T = Instant> {
    /// The time in which one token is added.
    interval: Duration,
    /// The time in which an empty bucket fills up.
    capacity: Duration,
    /// When the bucket is full; `None` before the first token was taken.
    full_at: Option<T>,
}

impl<T: Moment> TokenBucket<T> {
    /// Makes a bucket that gets one token every `interval` and holds up to `burst` of them.
    pub fn every(interval: Duration, burst: u32) -> Self {
        Self { interval, capacity: interval * burst.max(1), full_at: None }
    }

    /// Makes a bucket that gets `rate` tokens a second, at least one, and holds up to `burst`.
    pub fn per_second(rate: u32, burst: u32) -> Self {
        Self::every(Duration::from_secs(1) / rate.max(1), burst)
    }

    /// Changes the rate and the burst. Does not return tokens that were taken.
    pub fn set_per_second(&mut self, rate: u32, burst: u32) {
        let full_at = self.full_at;
        *self = Self { full_at, ..Self::per_second(rate, burst) };
    }

    /// Takes a token.
    ///
    /// # Errors
    ///
    /// The time until a token is available, when there is none. Then nothing was taken.
    pub fn take(&mut self, now: T) -> Result<(), Duration> {
        let wait = self.wait(now);
        if wait.is_zero() {
            self.spend(now);
            Ok(())
        } else {
            Err(wait)
        }
    }

    /// Takes a token, in advance if there is none, and returns how long to wait before using it.
    pub fn reserve(&mut self, now: T) -> Duration {
        let wait = self.wait(now);
        self.spend(now);
        wait
    }

    /// Takes `count` tokens, in advance as far as there are none, and returns how long to wait before
    /// using them.
    pub fn reserve_many(&mut self, count: u32, now: T) -> Duration {
        let from = self.full_at.map_or(now, |full_at| full_at.max(now));
        let full_at = from.after(self.interval * count);
        self.full_at = Some(full_at);
        full_at.since(now).saturating_sub(self.capacity)
    }

    /// Gives back tokens that were taken and not used.
    pub fn give_back(&mut self, count: u32, now: T) {
        let owed = self.full_at.map_or(Duration::ZERO, |full_at| full_at.since(now));
        self.full_at = Some(now.after(owed.saturating_sub(self.interval * count)));
    }

    /// Returns the time until a token is available.
    pub fn wait(&self, now: T) -> Duration {
        let missing = self.full_at.map_or(Duration::ZERO, |full_at| full_at.since(now));
        (missing + self.interval).saturating_sub(self.capacity)
    }

    fn spend(&mut self, now: T) {
        let from = self.full_at.map_or(now, |full_at| full_at.max(now));
        self.full_at = Some(from.after(self.interval));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TICK: Duration = Duration::from_millis(25);

    #[test]
    fn a_burst_passes_and_then_one_token_every_interval() {
        let start = Instant::now();
        let mut bucket = TokenBucket::every(TICK * 4, 3);
        let passed: Vec<u32> =
            (0..10).filter(|tick| bucket.take(start + *tick * TICK).is_ok()).collect();
        assert_eq!(passed, [0, 1, 2, 4, 8]);
    }

    #[test]
    fn reserved_tokens_are_spaced_by_the_interval() {
        let mut bucket = TokenBucket::every(Duration::from_millis(100), 2);
        let waits: Vec<_> =
            (0..4).map(|_| bucket.reserve(Timestamp::UNIX_EPOCH).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
    }

    #[test]
    fn a_rejected_request_takes_nothing_and_learns_when_to_try_again() {
        let now = Timestamp::UNIX_EPOCH;
        let mut bucket = TokenBucket::per_second(10, 1);
        assert_eq!(bucket.take(now), Ok(()));
        for _ in 0..3 {
            assert_eq!(bucket.take(now), Err(Duration::from_millis(100)));
        }
        assert_eq!(bucket.take(now.after(Duration::from_millis(100))), Ok(()));
    }

    #[test]
    fn tokens_that_were_taken_in_advance_are_waited_for_unless_they_are_given_back() {
        let now = Timestamp::UNIX_EPOCH;
        let mut bucket = TokenBucket::per_second(10, 10);
        assert_eq!(bucket.reserve_many(10, now), Duration::ZERO, "a full bucket");
        assert_eq!(bucket.reserve_many(5, now), Duration::from_millis(500));
        bucket.give_back(4, now);
        assert_eq!(bucket.reserve_many(1, now), Duration::from_millis(200));
        bucket.give_back(100, now);
        assert_eq!(bucket.reserve_many(10, now), Duration::ZERO, "no fuller than full");
        assert_eq!(bucket.reserve_many(1, now), Duration::from_millis(100));
    }

    #[test]
    fn a_lower_rate_applies_from_the_next_token() {
        let now = Timestamp::UNIX_EPOCH;
        let mut bucket = TokenBucket::per_second(10, 1);
        assert_eq!(bucket.take(now), Ok(()));
        bucket.set_per_second(1, 1);
        assert_eq!(bucket.take(now), Err(Duration::from_millis(100)));
        let later = now.after(Duration::from_millis(100));
        assert_eq!(bucket.take(later), Ok(()));
        assert_eq!(bucket.take(later), Err(Duration::from_secs(1)));
    }

    proptest! {
        #[test]
        fn no_window_admits_more_than_its_share(
            gaps in prop::collection::vec(0..300_u64, 1..200), rate in 1..50_u32, burst in 1..20_u32,
        ) {
            let start = Instant::now();
            let mut bucket = TokenBucket::per_second(rate, burst);
            let mut now = start;
            let mut admitted = 0_u32;
            for gap in gaps {
                now += Duration::from_millis(gap);
                admitted += u32::from(bucket.take(now).is_ok());
            }
            let share = (now - start).as_secs_f64() * f64::from(rate) + f64::from(burst);
            prop_assert!(f64::from(admitted) <= share + 0.001);
        }
    }
}
