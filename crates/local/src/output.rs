//! What the commands print.

use std::io::Write as _;

/// Prints to the standard output stream. A closed stream, as in `headwater … | head`, is no error.
pub(crate) fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}
