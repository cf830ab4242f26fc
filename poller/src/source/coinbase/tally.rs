//! Counts what should not come, and tells of it once a minute.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// How often a kind of oddity is told of.
const TELL_EVERY: Duration = Duration::from_mins(1);

/// How long a loss stays in the state.
const TELL_LOSS_FOR: Duration = Duration::from_mins(10);

/// Most bytes of a message that are shown.
const SAMPLE_BYTES: usize = 200;

/// Things that should not come, and that nothing breaks of.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Texts that are no message.
    pub(super) garbage: Oddity,
    /// Messages of types that were not asked for.
    pub(super) unknown: Oddity,
    /// Binary messages.
    pub(super) binary: Oddity,
    /// Errors that answer nothing.
    pub(super) errors: Oddity,
    /// Trades that were there already. Every subscription starts with one.
    pub(super) duplicates: u64,
}

/// A kind of oddity.
#[derive(Debug, Default)]
pub(super) struct Oddity {
    count: u64,
    told: u64,
    told_at: Option<Instant>,
    sample: String,
}

impl Tally {
    /// Tells of what came since it was last told.
    pub(super) fn tell(&mut self, now: Instant) {
        self.garbage.tell("no message that can be read", now);
        self.unknown.tell("message of an unknown type", now);
        self.binary.tell("binary message", now);
        self.errors.tell("error that answers no request", now);
    }
}

impl Oddity {
    /// Counts one that looks like `sample`.
    pub(super) fn add(&mut self, sample: &str) {
        self.count += 1;
        // One sample is enough each time.
        if self.count == self.told + 1 {
            self.sample.clear();
            self.sample.push_str(&sample[..sample.floor_char_boundary(SAMPLE_BYTES)]);
        }
    }

    /// How many came.
    #[cfg(test)]
    pub(super) fn count(&self) -> u64 {
        self.count
    }

    fn tell(&mut self, what: &'static str, now: Instant) {
        let is_soon = self.told_at.is_some_and(|at| now < at + TELL_EVERY);
        if self.count == self.told || is_soon {
            return;
        }
        warn!(what, count = self.count - self.told, sample = self.sample, "odd messages");
        (self.told, self.told_at) = (self.count, Some(now));
    }
}

/// Trades that could not be had.
#[derive(Debug, Default)]
pub(super) struct Losses {
    count: u64,
    last: Option<Instant>,
}

impl Losses {
    /// Counts trades of a product that are given up.
    pub(super) fn add(&mut self, product: &str, count: u64, now: Instant) {
        if count > 0 {
            warn!(product, count, "trades lost");
            self.count = self.count.saturating_add(count);
            self.last = Some(now);
        }
    }

    /// How many were lost, if some were lately.
    pub(super) fn recent(&self, now: Instant) -> Option<u64> {
        self.last.filter(|last| now < *last + TELL_LOSS_FOR).map(|_| self.count)
    }
}
