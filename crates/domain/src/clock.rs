//! The source of the current time. The programs provide it, so that a simulation can provide another
//! one.

use std::{fmt, sync::Arc};

use jiff::Timestamp;

/// Returns the current time. Clones share the source.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> Timestamp + Send + Sync>);

impl Clock {
    /// Makes a clock from a function that returns the current time.
    pub fn new(now: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self(Arc::new(now))
    }

    /// Returns the current time.
    pub fn now(&self) -> Timestamp {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Clock").finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_shows_the_time_of_its_source() {
        let at: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time");
        let clock = Clock::new(move || at);
        assert_eq!(clock.clone().now(), at);
        assert_eq!(format!("{clock:?}"), "Clock");
    }
}
