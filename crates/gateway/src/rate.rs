//! Rates, and the token bucket that enforces them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// A rate, and the size of the token bucket that enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time in which one token is added.
    interval: Duration,
    /// The number of tokens that a full bucket holds.
    burst: u32,
}

impl Rate {
    /// Creates a rate of `per_second` tokens, with a bucket of `burst` tokens.
    ///
    /// # Panics
    ///
    /// When a number is zero: such a rate would reject everything, sooner or later.
    #[must_use]
    pub const fn new(per_second: u32, burst: u32) -> Self {
        assert!(per_second > 0, "a rate must add at least one token per second");
        assert!(burst > 0, "the bucket of a rate must hold at least one token");
        Self { interval: Duration::from_nanos(1_000_000_000 / per_second as u64), burst }
    }

    /// Creates a rate that adds no token during a test.
    #[cfg(test)]
    pub(crate) const fn of_burst(burst: u32) -> Self {
        Self { interval: Duration::from_hours(24), burst }
    }
}

/// The longest wait for tokens that were taken in advance. What was taken beyond it is not paid back, so that
/// nobody waits for long after others have taken too much.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// A token bucket without a lock. It stores the time at which the bucket will be full again.
#[derive(Debug)]
pub(crate) struct TokenBucket {
    rate: Option<Rate>,
    started: Instant,
    full_at_nanos: AtomicU64,
}

impl TokenBucket {
    pub(crate) fn new(rate: Option<Rate>) -> Self {
        Self { rate, started: Instant::now(), full_at_nanos: AtomicU64::new(0) }
    }

    /// Takes one token, if the bucket has one.
    pub(crate) fn take(&self) -> bool {
        let Some(rate) = self.rate else { return true };
        self.take_at(rate, self.started.elapsed())
    }

    /// Takes tokens whether the bucket has them or not. Returns the wait until the bucket has been paid back what
    /// it did not have, [`LONGEST_WAIT`] at most.
    pub(crate) fn spend(&self, tokens: usize) -> Duration {
        let Some(rate) = self.rate else { return Duration::ZERO };
        self.spend_at(rate, tokens, self.started.elapsed())
    }

    /// Whether the bucket has all of its tokens.
    pub(crate) fn is_full(&self) -> bool {
        u128::from(self.full_at_nanos.load(Ordering::Relaxed)) <= self.started.elapsed().as_nanos()
    }

    fn spend_at(&self, rate: Rate, tokens: usize, now: Duration) -> Duration {
        let now = nanos(now);
        let spent = nanos(rate.interval).saturating_mul(tokens as u64);
        let bucket = nanos(rate.interval).saturating_mul(u64::from(rate.burst));
        let latest = now.saturating_add(bucket).saturating_add(nanos(LONGEST_WAIT));
        let spend = |full_at: u64| full_at.max(now).saturating_add(spent).min(latest);
        let before = self.full_at_nanos.update(Ordering::Relaxed, Ordering::Relaxed, spend);
        Duration::from_nanos((spend(before) - now).saturating_sub(bucket))
    }

    fn take_at(&self, rate: Rate, now: Duration) -> bool {
        let now = nanos(now);
        let token = nanos(rate.interval);
        let bucket = token.saturating_mul(u64::from(rate.burst));
        self.full_at_nanos
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let next = full_at.max(now) + token;
                (next - now <= bucket).then_some(next)
            })
            .is_ok()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_spends_more_than_there_is_waits_until_it_is_paid_back() {
        let rate = Rate::new(10, 3);
        let bucket = TokenBucket::new(Some(rate));
        let spend = |tokens, ms| bucket.spend_at(rate, tokens, Duration::from_millis(ms));
        assert_eq!(spend(3, 0), Duration::ZERO, "a full bucket");
        assert_eq!(spend(2, 0), Duration::from_millis(200));
        assert_eq!(spend(1, 200), Duration::from_millis(100));
        assert_eq!(spend(1, 60_000), Duration::ZERO, "time has passed");
        assert_eq!(spend(usize::MAX, 60_000), LONGEST_WAIT);
        assert_eq!(spend(1, 60_000), LONGEST_WAIT);
        assert_eq!(spend(1, 65_000), Duration::from_millis(100));
    }

    #[test]
    fn a_bucket_permits_its_burst_and_then_its_rate() {
        let rate = Rate::new(10, 3);
        let bucket = TokenBucket::new(Some(rate));
        let taken = |ms| {
            let now = Duration::from_millis(ms);
            (0..10).take_while(|_| bucket.take_at(rate, now)).count()
        };
        assert_eq!(taken(0), 3, "a full bucket");
        assert_eq!(taken(50), 0, "no whole token yet");
        assert_eq!(taken(100), 1, "one token was added");
        assert_eq!(taken(60_000), 3, "not more than a full bucket");
    }

    #[test]
    #[should_panic(expected = "at least one token per second")]
    fn a_rate_of_zero_is_rejected() {
        let _ = Rate::new(0, 1);
    }

    #[test]
    #[should_panic(expected = "must hold at least one token")]
    fn a_bucket_of_zero_tokens_is_rejected() {
        let _ = Rate::new(1, 0);
    }

    #[test]
    fn no_rate_is_no_limit() {
        let bucket = TokenBucket::new(None);
        assert!((0..100_000).all(|_| bucket.take()));
    }
}
