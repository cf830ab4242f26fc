//! How fast requests may follow each other.

use std::time::Duration;

use tokio::time::Instant;

/// Lets one request through in every interval, and a burst after a pause.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    interval: Duration,
    burst: Duration,
    /// When a request would be due if all had kept to the interval.
    due: Option<Instant>,
}

impl Pace {
    /// One request an interval, up to `burst` of them at once.
    pub(super) fn new(interval: Duration, burst: u32) -> Self {
        Self { interval, burst: interval * burst.saturating_sub(1), due: None }
    }

    /// Whether a request may go now; it counts if so.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let is_free = self.wait(now).is_zero();
        if is_free {
            self.count(now);
        }
        is_free
    }

    /// Counts a request, and returns how long it has to wait.
    pub(super) fn reserve(&mut self, now: Instant) -> Duration {
        let wait = self.wait(now);
        self.count(now);
        wait
    }

    fn wait(&self, now: Instant) -> Duration {
        let ahead = self.due.map_or(Duration::ZERO, |due| due.saturating_duration_since(now));
        ahead.saturating_sub(self.burst)
    }

    fn count(&mut self, now: Instant) {
        self.due = Some(self.due.map_or(now, |due| due.max(now)) + self.interval);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_one_an_interval() {
        let start = Instant::now();
        let mut pace = Pace::new(Duration::from_millis(100), 3);
        let passed: Vec<u32> =
            (0..10).filter(|tick| pace.take(start + *tick * Duration::from_millis(25))).collect();
        assert_eq!(passed, [0, 1, 2, 4, 8]);
        let mut pace = Pace::new(Duration::from_millis(100), 2);
        let waits: Vec<_> = (0..4).map(|_| pace.reserve(start).as_millis()).collect();
        assert_eq!(waits, [0, 0, 100, 200]);
    }
}
