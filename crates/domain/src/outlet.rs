//! The port through which messages are posted to WebSocket connections.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{chain::BoxError, connection::Recipient};

/// Why a gateway did not accept a message for a connection.
#[derive(Debug, thiserror::Error)]
pub enum OutletError {
    /// The connection is closed or was never open (HTTP 410).
    #[error("connection is gone")]
    Gone,
    /// The connection's buffer is full or the account's quota is exhausted (HTTP 429).
    #[error("connection is busy or the quota of posts is exhausted")]
    Busy,
    /// The message is over 128 KB (HTTP 413).
    #[error("message is too large")]
    TooLarge,
    /// Any other failure, such as an HTTP 5xx or a network error.
    #[error("post failed")]
    Failed(#[source] BoxError),
}

/// Posts messages to connections.
///
/// There are two implementations: `@connections` through the AWS SDK, and the socket table of the
/// gateway in the same process.
pub trait Outlet: Send + Sync + 'static {
    /// Sends one message to each recipient and returns the failures, by index.
    ///
    /// A message counts as sent when the gateway has buffered it for the connection, behind the messages
    /// that were posted and awaited earlier.
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, OutletError)>>;

    /// Closes a connection. The client sees code 1000.
    fn close<'a>(&'a self, recipient: &'a Recipient) -> BoxFuture<'a, Result<(), OutletError>>;
}
