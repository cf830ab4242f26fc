//! Recorded and made-up messages of servers, kept outside the repository.

use std::path::PathBuf;

use serde_json::Value;

/// The text of a fixture; `None`, with the reason on standard error, where it is not there.
pub(super) fn text(name: &str) -> Option<String> {
    let folder = std::env::var_os("HEADWATER_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
        PathBuf::from,
    );
    let path = folder.join("mastodon").join(name);
    let text = std::fs::read_to_string(&path);
    text.inspect_err(|error| eprintln!("skipped: {} cannot be read: {error}", path.display())).ok()
}

/// The JSON of a fixture, if it is there.
pub(super) fn json(name: &str) -> Option<Value> {
    text(name).map(|text| serde_json::from_str(&text).expect("a fixture is JSON"))
}

/// The lines of a fixture; none where it is not there.
pub(super) fn lines(name: &str) -> Vec<Value> {
    let text = text(name).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str(line).expect("a fixture's line is JSON")).collect()
}
