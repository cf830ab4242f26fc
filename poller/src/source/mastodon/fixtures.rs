//! Captures of messages and responses of Mastodon servers.

use serde_json::Value;

use crate::source::fixtures::{self, Capture};

/// The name of the folder.
const UPSTREAM: &str = "mastodon";

/// Reads our own capture, and then the recording of the same kind if it exists.
pub(super) fn captures(own: &'static str, recorded: &'static str) -> Vec<Capture> {
    fixtures::captures(UPSTREAM, own, &[recorded])
}

/// Returns the lines of our own capture, and then those of the recording of the same kind.
pub(super) fn lines(own: &'static str, recorded: &'static str) -> Vec<Value> {
    captures(own, recorded).iter().flat_map(lines_of).collect()
}

/// Returns the lines of a capture.
pub(super) fn lines_of(capture: &Capture) -> Vec<Value> {
    let lines = capture.text.lines();
    lines.map(|line| serde_json::from_str(line).expect("a line of a capture is JSON")).collect()
}

/// Returns one of our own JSON files.
pub(super) fn own_json(name: &str) -> Value {
    serde_json::from_str(&fixtures::own_text(UPSTREAM, name)).expect("JSON")
}

/// Returns a recorded JSON file, if it exists.
pub(super) fn recorded_json(name: &str) -> Option<Value> {
    let text = fixtures::recorded_text(UPSTREAM, name)?;
    Some(serde_json::from_str(&text).expect("JSON"))
}
