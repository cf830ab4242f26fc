//! Rates, and the token bucket that enforces them.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How long an empty bucket with a rate of zero needs for one token.
const REFILL_OF_ZERO: Duration = Duration::from_hours(24);

/// A rate, and the size of the token bucket that enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that are added each second. With zero, practically none: one a day.
    pub per_second: u32,
    /// The number of tokens that a full bucket holds.
    pub burst: u32,
}

/// A token bucket without a lock: it stores the time at which the bucket will be full again.
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

    fn take_at(&self, rate: Rate, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let interval = match rate.per_second {
            0 => REFILL_OF_ZERO,
            per_second => Duration::from_secs(1) / per_second,
        };
        let token = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
        let bucket = token.saturating_mul(u64::from(rate.burst));
        self.full_at_nanos
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let next = full_at.max(now) + token;
                (next - now <= bucket).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { per_second: 10, burst: 3 };
        let bucket = TokenBucket::new(Some(rate));
        let taken = |ms| {
            let now = Duration::from_millis(ms);
            (0..10).take_while(|_| bucket.take_at(rate, now)).count()
        };
        assert_eq!(taken(0), 3, "a full bucket");
        assert_eq!(taken(50), 0, "no whole token yet");
        assert_eq!(taken(100), 1, "one token came back");
        assert_eq!(taken(60_000), 3, "no more than a bucket");
    }

    #[test]
    fn a_rate_of_zero_gives_the_burst_only() {
        let rate = Rate { per_second: 0, burst: 2 };
        let bucket = TokenBucket::new(Some(rate));
        let taken = |secs| {
            let now = Duration::from_secs(secs);
            (0..10).take_while(|_| bucket.take_at(rate, now)).count()
        };
        assert_eq!(taken(0), 2);
        assert_eq!(taken(3_600), 0, "an hour later");
    }

    #[test]
    fn no_rate_is_no_limit() {
        let bucket = TokenBucket::new(None);
        assert!((0..100_000).all(|_| bucket.take()));
    }
}
