//! Captures of the exchange's messages.

use serde_json::Value;

use crate::source::fixtures::{self, Capture};

/// The name of the folder.
const UPSTREAM: &str = "coinbase";

/// Reads our own capture, and then the recordings of the same kind that exist.
pub(super) fn captures(own: &'static str, recorded: &[&'static str]) -> Vec<Capture> {
    fixtures::captures(UPSTREAM, own, recorded)
}

/// Returns the text of the file beside a capture: `own` for our own captures, else `recorded`.
pub(super) fn beside(capture: &Capture, own: &str, recorded: &str) -> String {
    if is_own(capture) {
        fixtures::own_text(UPSTREAM, own)
    } else {
        fixtures::recorded_text(UPSTREAM, recorded).expect("the file beside a recording")
    }
}

/// Returns the expected results of a capture.
pub(super) fn expected(capture: &Capture) -> Value {
    let text = beside(capture, "expected.json", "EXPECTED.json");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[capture.name].clone()
}

fn is_own(capture: &Capture) -> bool {
    !capture.name.starts_with("exchange-")
}
