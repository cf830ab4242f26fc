//! Captures of the exchange's messages.

use serde_json::Value;

use crate::source::fixtures::{self, Capture};

/// The name of the folder.
const UPSTREAM: &str = "coinbase";

/// Reads our own capture, then those recordings of the same kind that are there.
pub(super) fn captures(own: &'static str, recorded: &[&'static str]) -> Vec<Capture> {
    fixtures::captures(UPSTREAM, own, recorded)
}

/// Returns the text of the file that belongs to a capture: `own` or `recorded`.
pub(super) fn beside(capture: &Capture, own: &str, recorded: &str) -> String {
    if is_own(capture) {
        fixtures::own_text(UPSTREAM, own)
    } else {
        fixtures::recorded_text(UPSTREAM, recorded).expect("the file beside a recording")
    }
}

/// Returns what is known about a capture.
pub(super) fn expected(capture: &Capture) -> Value {
    let text = beside(capture, "expected.json", "EXPECTED.json");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[capture.name].clone()
}

fn is_own(capture: &Capture) -> bool {
    !capture.name.starts_with("exchange-")
}
