//! Detects products whose heartbeats stop.

use std::time::Duration;

use tokio::time::Instant;

/// Longest time without a heartbeat. The exchange sends one every second.
const SILENCE: Duration = Duration::from_secs(5);

/// The heartbeats of one product.
#[derive(Debug, Default)]
pub(super) struct Liveness {
    /// The latest time at which they should have started.
    due_since: Option<Instant>,
    heard_at: Option<Instant>,
    /// How often they stopped since the last one.
    stalls: u32,
}

/// How to handle a product whose heartbeats stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stalled {
    /// Subscribe to the product again.
    Renew,
    /// Reconnect.
    Reconnect,
    /// Stop requesting the product: nothing helped, and reconnecting disturbs the others.
    Abandon,
}

impl Liveness {
    /// Notes that heartbeats were requested.
    pub(super) fn asked(&mut self, now: Instant) {
        self.due_since = Some(now + SILENCE);
        self.heard_at = None;
    }

    /// Notes that the exchange confirmed the heartbeats.
    pub(super) fn confirmed(&mut self, now: Instant) {
        self.due_since = Some(now);
    }

    /// Handles a heartbeat.
    pub(super) fn hear(&mut self, now: Instant) {
        self.heard_at = Some(now);
        self.stalls = 0;
    }

    /// Stops expecting heartbeats.
    pub(super) fn rest(&mut self) {
        self.due_since = None;
        self.heard_at = None;
    }

    /// Returns what to do if heartbeats have stopped. Returns `None` until they stop again.
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
                Stalled::Abandon
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_heartbeats_escalate_step_by_step() {
        let mut liveness = Liveness::default();
        let mut now = Instant::now();
        assert_eq!(liveness.stalled(now + SILENCE * 9), None, "nothing was requested");
        for expected in [Stalled::Renew, Stalled::Reconnect, Stalled::Abandon] {
            liveness.asked(now);
            liveness.confirmed(now);
            assert_eq!(liveness.stalled(now + SILENCE - Duration::from_millis(1)), None);
            now += SILENCE;
            assert_eq!(liveness.stalled(now), Some(expected));
            assert_eq!(liveness.stalled(now + SILENCE), None, "once");
        }
        liveness.asked(now);
        assert_eq!(liveness.stalled(now + SILENCE), None, "not confirmed yet");
        assert_eq!(liveness.stalled(now + SILENCE * 2), Some(Stalled::Renew));
        liveness.asked(now);
        liveness.hear(now + SILENCE * 3);
        assert_eq!(liveness.stalled(now + SILENCE * 4 - Duration::from_millis(1)), None);
        assert_eq!(
            liveness.stalled(now + SILENCE * 4),
            Some(Stalled::Renew),
            "one arrived meanwhile"
        );
    }
}
