//! The delay between attempts.

use std::time::Duration;

use rand::{Rng, RngExt as _};

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
    pub fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling;
        self.ceiling = (ceiling * 2).min(self.max);
        ceiling.mul_f64(rng.random_range(0.1..1.0))
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
        let mut rng = rand::rng();
        for attempt in 0..20_u32 {
            let ceiling = (min * 2_u32.pow(attempt.min(10))).min(max);
            let delay = backoff.next_delay(&mut rng);
            assert!(delay <= ceiling && delay >= ceiling / 10, "attempt {attempt}: {delay:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= min);
    }
}
