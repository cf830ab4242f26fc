//! How long to wait before the next attempt.

use std::time::Duration;

use rand::{Rng, RngExt};

/// Exponential backoff with full jitter: a wait is any time up to a bound that doubles.
#[derive(Clone, Debug)]
pub struct Backoff {
    min: Duration,
    max: Duration,
    bound: Duration,
}

impl Backoff {
    /// Waits of up to `min` at first, and of up to `max` in the end.
    pub fn new(min: Duration, max: Duration) -> Self {
        Self { min, max, bound: min }
    }

    /// Returns the next wait.
    pub fn next_delay(&mut self, rng: &mut impl Rng) -> Duration {
        let delay = self.bound.mul_f64(rng.random());
        self.bound = (self.bound * 2).min(self.max);
        delay
    }

    /// Starts over, after an attempt that was of use.
    pub fn reset(&mut self) {
        self.bound = self.min;
    }
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_grow_to_the_bound_and_start_over() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        for bound in [1, 2, 4, 8, 16, 32, 60, 60] {
            let delay = backoff.next_delay(&mut rng);
            assert!(delay <= Duration::from_secs(bound), "{delay:?} within {bound} s");
        }
        backoff.reset();
        assert!(backoff.next_delay(&mut rng) <= Duration::from_secs(1));
    }
}
