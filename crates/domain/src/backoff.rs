//! The delay between attempts.

use std::time::Duration;

/// Exponential backoff with full jitter: each delay is random, below a ceiling that doubles each time.
///
/// After <https://aws.amazon.com/builders-library/timeouts-retries-and-backoff-with-jitter/>.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    ceiling: Duration,
}

impl Backoff {
    /// Starts with delays of up to `min`, which grow up to `max`.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, ceiling: min }
    }

    /// Draws the next delay. It is at least a tenth of its ceiling, so that retries never follow each other
    /// without a pause.
    pub fn next_delay(&mut self) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.max);
        // The generator of the thread can be seeded, so that a simulation can be repeated.
        ceiling.mul_f64(0.1 + 0.9 * fastrand::f64())
    }

    /// Resets the ceiling to the minimum.
    pub fn reset(&mut self) {
        self.ceiling = self.min;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_maximum_until_reset() {
        let min = Duration::from_millis(500);
        let max = Duration::from_mins(1);
        let mut backoff = Backoff::new(min, max);
        for attempt in 0..20_u32 {
            let ceiling = (min * 2_u32.pow(attempt.min(10))).min(max);
            let delay = backoff.next_delay();
            assert!(delay <= ceiling && delay >= ceiling / 10, "attempt {attempt}: {delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= min);
    }

    #[test]
    fn delays_are_spread_so_that_clients_do_not_retry_together() {
        fastrand::seed(7);
        let ceiling = Duration::from_secs(10);
        let delays: Vec<Duration> =
            (0..100).map(|_| Backoff::new(ceiling, ceiling).next_delay()).collect();
        assert!(delays.iter().any(|delay| *delay < ceiling / 4));
        assert!(delays.iter().any(|delay| *delay > ceiling * 3 / 4));
    }
}
