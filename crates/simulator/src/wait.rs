//! Waiting for what has to happen.

use std::time::Duration;

use tokio::time;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that has to happen.
///
/// # Panics
///
/// When it does not happen for too long.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    time::timeout(PATIENCE, future).await.expect("it happens soon")
}
