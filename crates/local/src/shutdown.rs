//! Graceful shutdown on a signal.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// The exit code of a program that a second signal ended.
const INTERRUPTED: i32 = 130;

/// Returns a token that the first SIGINT or SIGTERM cancels. A second signal ends the process at
/// once.
///
/// # Errors
///
/// When the signals cannot be handled.
pub fn on_signal() -> io::Result<CancellationToken> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let shutdown = CancellationToken::new();
    let token = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            if token.is_cancelled() {
                std::process::exit(INTERRUPTED);
            }
            token.cancel();
        }
    });
    Ok(shutdown)
}
