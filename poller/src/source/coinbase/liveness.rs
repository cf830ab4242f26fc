//! Whether a product's heartbeats come.

use std::time::Duration;

use tokio::time::Instant;

/// How long a heartbeat may fail to come. They come every second.
const SILENCE: Duration = Duration::from_secs(5);

/// The heartbeats of one product.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// When they were to begin, at the latest.
    due_since: Option<Instant>,
    heard_at: Option<Instant>,
    /// How often they failed to come since one came.
    stalls: u32,
}

/// What to do about a product whose heartbeats do not come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stalled {
    /// Ask for the product anew.
    Renew,
    /// Connect anew.
    Reconnect,
    /// Leave it alone: neither helped, and others suffer.
    Refuse,
}

impl Liveness {
    /// Notes that heartbeats were asked for.
    pub(super) fn asked(&mut self, now: Instant) {
        (self.due_since, self.heard_at) = (Some(now + SILENCE), None);
    }

    /// Notes that heartbeats were agreed to.
    pub(super) fn confirmed(&mut self, now: Instant) {
        self.due_since = Some(now);
    }

    /// Takes a heartbeat.
    pub(super) fn hear(&mut self, now: Instant) {
        (self.heard_at, self.stalls) = (Some(now), 0);
    }

    /// Expects none any more.
    pub(super) fn rest(&mut self) {
        (self.due_since, self.heard_at) = (None, None);
    }

    /// Says what to do when heartbeats fail to come. Says so once.
    pub(super) fn stalled(&mut self, now: Instant) -> Option<Stalled> {
        let due = self.due_since?;
        let since = self.heard_at.map_or(due, |heard| heard.max(due));
        if now < since + SILENCE {
            return None;
        }
        self.rest();
        self.stalls += 1;
        Some(match self.stalls {
            1 => Stalled::Renew,
            2 => Stalled::Reconnect,
            _ => {
                self.stalls = 0;
                Stalled::Refuse
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_met_step_by_step() {
        let (mut liveness, mut now) = (Liveness::default(), Instant::now());
        assert_eq!(liveness.stalled(now + SILENCE * 9), None, "nothing was asked for");
        for expected in [Stalled::Renew, Stalled::Reconnect, Stalled::Refuse] {
            liveness.asked(now);
            liveness.confirmed(now);
            assert_eq!(liveness.stalled(now + SILENCE - Duration::from_millis(1)), None);
            now += SILENCE;
            assert_eq!(liveness.stalled(now), Some(expected));
            assert_eq!(liveness.stalled(now + SILENCE), None, "once");
        }
        liveness.asked(now);
        assert_eq!(liveness.stalled(now + SILENCE), None, "no answer yet");
        assert_eq!(liveness.stalled(now + SILENCE * 2), Some(Stalled::Renew));
        liveness.asked(now);
        liveness.hear(now + SILENCE * 3);
        assert_eq!(liveness.stalled(now + SILENCE * 4 - Duration::from_millis(1)), None);
        assert_eq!(liveness.stalled(now + SILENCE * 4), Some(Stalled::Renew), "one came between");
    }
}
