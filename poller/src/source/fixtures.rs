//! Captures of upstream messages for tests.
//!
//! Our own captures are synthetic, and are in `tests/fixtures`. Recordings of the real upstreams are
//! not part of the repository. Tests also use them if the folder in `HEADWATER_FIXTURES`, or
//! `../shared/fixtures` beside the workspace, contains them.

use std::path::{Path, PathBuf};

/// A capture of messages.
pub(super) struct Capture {
    /// The name of the file.
    pub(super) name: &'static str,
    /// Its text.
    pub(super) text: String,
}

/// Reads our own capture, and then the recordings of the same kind that exist.
pub(super) fn captures(
    upstream: &str,
    own: &'static str,
    recorded: &[&'static str],
) -> Vec<Capture> {
    let own = Capture { name: own, text: own_text(upstream, own) };
    let recorded = recorded
        .iter()
        .filter_map(|name| recorded_text(upstream, name).map(|text| Capture { name, text }));
    std::iter::once(own).chain(recorded).collect()
}

/// Reads one of our own files.
pub(super) fn own_text(upstream: &str, name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures");
    let path = folder.join(upstream).join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Reads a recording, if it exists.
pub(super) fn recorded_text(upstream: &str, name: &str) -> Option<String> {
    let folder = std::env::var_os("HEADWATER_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
        PathBuf::from,
    );
    let path = folder.join(upstream).join(name);
    let text = std::fs::read_to_string(&path);
    text.inspect_err(|error| eprintln!("using only our own captures: {}: {error}", path.display()))
        .ok()
}
