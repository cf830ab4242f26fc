//! Sending a message to a connection, at the speed at which the connection accepts it.

use std::time::Duration;

use bytes::Bytes;
use domain::{
    connection::Recipient,
    outlet::{Outlet, OutletError},
};
use tokio::time::{self, Instant};

/// How long to retry while a connection is busy. API Gateway ends an invocation after 29 s.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// The first wait before a retry.
const MIN_WAIT: Duration = Duration::from_millis(5);

/// The longest wait before a retry.
const MAX_WAIT: Duration = Duration::from_millis(250);

/// Why a message was not sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum SendError {
    /// The connection is closed.
    #[error("connection is closed")]
    Closed,
    /// The connection stayed busy until the timeout.
    #[error("connection is busy")]
    Busy,
    /// The gateway failed.
    #[error("could not post the message")]
    Post(#[source] OutletError),
}

/// Posts one message, and retries for `timeout` while the connection is busy or the gateway fails. After a
/// failure the client may receive the message twice.
pub(super) async fn send(
    outlet: &dyn Outlet,
    recipient: &Recipient,
    message: Bytes,
    timeout: Duration,
) -> Result<(), SendError> {
    let deadline = Instant::now() + timeout;
    let mut wait = MIN_WAIT;
    loop {
        let errors = outlet.post(std::slice::from_ref(recipient), message.clone()).await;
        match errors.into_iter().next() {
            None => return Ok(()),
            Some((_, OutletError::Gone)) => return Err(SendError::Closed),
            Some((_, OutletError::Busy)) if Instant::now() + wait > deadline => {
                return Err(SendError::Busy);
            }
            Some((_, error @ OutletError::Failed(_))) if Instant::now() + wait > deadline => {
                return Err(SendError::Post(error));
            }
            Some((_, OutletError::Busy | OutletError::Failed(_))) => {
                time::sleep(wait).await;
                wait = (wait * 2).min(MAX_WAIT);
            }
            Some((_, error @ OutletError::TooLarge)) => return Err(SendError::Post(error)),
        }
    }
}
