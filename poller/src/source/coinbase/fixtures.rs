//! Recorded messages of the exchange, which are no part of the repository.

use std::path::PathBuf;

/// Returns a recorded file; `None`, with a line that says so, where there is none.
///
/// Recordings are looked for in `HEADWATER_FIXTURES`, or else beside the workspace.
pub(super) fn read(name: &str) -> Option<String> {
    let folder = std::env::var_os("HEADWATER_FIXTURES").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/fixtures"),
        PathBuf::from,
    );
    let path = folder.join("coinbase").join(name);
    match std::fs::read_to_string(&path) {
        Ok(text) => Some(text),
        Err(error) => {
            eprintln!("skipped: {}: {error}", path.display());
            None
        }
    }
}
