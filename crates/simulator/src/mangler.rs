//! The faults that change the messages on a connection.

use std::time::Duration;

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use super::faults::{Active, Fault};

/// A message, and whether it may be reordered.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    message: Message,
    movable: bool,
}

impl Frame {
    pub(super) fn movable(message: impl Into<Message>) -> Self {
        Self { message: message.into(), movable: true }
    }

    pub(super) fn fixed(message: impl Into<Message>) -> Self {
        Self { message: message.into(), movable: false }
    }
}

/// Duplicates and delays the messages of one connection, and inserts malformed ones.
#[derive(Debug)]
pub(super) struct Mangler {
    rng: StdRng,
    held: Option<Frame>,
}

impl Mangler {
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: StdRng::seed_from_u64(seed), held: None }
    }

    /// Returns how long a connection stays open while the fault `drop` is on.
    pub(super) fn patience(&mut self) -> Duration {
        Duration::from_millis(self.rng.random_range(1_500..4_000))
    }

    /// Appends a message to `out` with its faults. The message may be delayed, but is never lost.
    pub(super) fn pass(
        &mut self,
        frame: Frame,
        faults: Active,
        garbage: &[&'static str],
        out: &mut Vec<Message>,
    ) {
        if faults.has(Fault::Garbage) && self.rng.random_ratio(1, 6) {
            out.push(self.broken(frame.message.to_text().unwrap_or_default(), garbage));
        }
        let held = self.held.take();
        if held.is_none()
            && faults.has(Fault::Reorder)
            && frame.movable
            && self.rng.random_ratio(1, 4)
        {
            self.held = Some(frame);
            return;
        }
        if faults.has(Fault::Duplicate) && self.rng.random_ratio(1, 4) {
            out.push(frame.message.clone());
        }
        out.push(frame.message);
        out.extend(held.map(|held| held.message));
    }

    fn broken(&mut self, good: &str, garbage: &[&'static str]) -> Message {
        match self.rng.random_range(0..garbage.len() + 2) {
            0 => {
                let cut = self.rng.random_range(1..good.len().max(2));
                Message::text(&good[..good.floor_char_boundary(cut)])
            }
            1 => {
                let bytes: [u8; 24] = self.rng.random();
                Message::Binary(Bytes::copy_from_slice(&bytes))
            }
            nth => Message::text(garbage[nth - 2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::Switch;

    fn run(faults: &[Fault]) -> Vec<Message> {
        let mut mangler = Mangler::new(1);
        let active = Switch::new(faults).active();
        let mut out = Vec::new();
        for nth in 1000..1200 {
            let frame = Frame::movable(format!(r#"{{"number":{nth}}}"#));
            mangler.pass(frame, active, &["[]", "null"], &mut out);
        }
        mangler.pass(Frame::fixed("end"), active, &["[]"], &mut out);
        out
    }

    #[test]
    fn nothing_changes_without_a_fault() {
        assert_eq!(run(&[]).len(), 201);
    }

    #[test]
    fn every_fault_keeps_every_good_message() {
        let plain = run(&[]);
        for fault in [Fault::Duplicate, Fault::Reorder, Fault::Garbage] {
            let mangled = run(&[fault]);
            assert_ne!(mangled, plain, "{fault:?}");
            assert!(plain.iter().all(|message| mangled.contains(message)), "{fault:?}");
        }
        assert!(run(&[Fault::Garbage]).iter().any(Message::is_binary));
    }
}
