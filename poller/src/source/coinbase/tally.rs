//! Counts unexpected messages, and logs them once a minute.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// How often an anomaly is logged.
const LOG_EVERY: Duration = Duration::from_mins(1);

/// How long the state of the source reports a loss.
const REPORT_LOSS_FOR: Duration = Duration::from_mins(10);

/// Most bytes of a message that are logged.
const SAMPLE_BYTES: usize = 200;

/// Counts of messages that are unexpected but harmless.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Texts that cannot be parsed.
    pub(super) garbage: Anomaly,
    /// Messages of unknown types.
    pub(super) unknown: Anomaly,
    /// Binary messages.
    pub(super) binary: Anomaly,
    /// Errors that answer no request.
    pub(super) errors: Anomaly,
    /// Trades that arrived before. Every subscription starts with one.
    pub(super) duplicates: u64,
}

/// One kind of unexpected message.
#[derive(Debug, Default)]
pub(super) struct Anomaly {
    count: u64,
    logged: u64,
    logged_at: Option<Instant>,
    sample: String,
}

impl Tally {
    /// Logs the counts since the last time.
    pub(super) fn log(&mut self, now: Instant) {
        self.garbage.log("message that cannot be parsed", now);
        self.unknown.log("message of an unknown type", now);
        self.binary.log("binary message", now);
        self.errors.log("error that answers no request", now);
    }
}

impl Anomaly {
    /// Counts a message; `sample` is its text.
    pub(super) fn add(&mut self, sample: &str) {
        self.count += 1;
        // One sample for each log line is enough.
        if self.count == self.logged + 1 {
            self.sample.clear();
            self.sample.push_str(&sample[..sample.floor_char_boundary(SAMPLE_BYTES)]);
        }
    }

    /// Returns the count.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn log(&mut self, what: &'static str, now: Instant) {
        let is_soon = self.logged_at.is_some_and(|at| now < at + LOG_EVERY);
        if self.count == self.logged || is_soon {
            return;
        }
        warn!(
            what,
            count = self.count - self.logged,
            sample = self.sample,
            "received unexpected messages"
        );
        self.logged = self.count;
        self.logged_at = Some(now);
    }
}

/// Counts trades that were missed and could not be fetched.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u64,
    last: Option<Instant>,
}

impl Losses {
    /// Counts lost trades of a product.
    pub(super) fn add(&mut self, product: &str, count: u64, now: Instant) {
        if count > 0 {
            warn!(product, count, "lost trades: they were missed and could not be fetched");
            self.count = self.count.saturating_add(count);
            self.last = Some(now);
        }
    }

    /// Returns how many were lost, if some were lost recently.
    pub(super) fn recent(&self, now: Instant) -> Option<u64> {
        self.last.filter(|last| now < *last + REPORT_LOSS_FOR).map(|_| self.count)
    }
}
