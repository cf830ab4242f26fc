//! Waiting, with a time limit, for events that a test depends on.

use std::time::Duration;

use tokio::time;

/// The time limit of every wait.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is checked.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// Waits for a future that must complete.
///
/// # Panics
///
/// When it does not complete in time.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    time::timeout(PATIENCE, future).await.expect("it completes in time")
}

/// Waits until a condition holds.
///
/// # Panics
///
/// When it does not hold in time; `what` names the condition.
pub(super) async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            time::sleep(CHECK_EVERY).await;
        }
    };
    assert!(time::timeout(PATIENCE, wait).await.is_ok(), "timed out: {what}");
}
