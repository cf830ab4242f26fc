//! Posting messages to WebSocket connections.

use bytes::Bytes;
use futures_util::future::BoxFuture;

use crate::{chain::BoxError, connection::Recipient};

/// Why a connection did not take a message.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// The connection is closed or was never open (HTTP 410).
    #[error("connection is gone")]
    Gone,
    /// The connection's buffer is full or the account's quota is used up (HTTP 429).
    #[error("connection takes no more at the moment")]
    Busy,
    /// The message is over 128 KB (HTTP 413).
    #[error("message is too large")]
    TooLarge,
    /// Anything else, such as an HTTP 5xx or a broken network.
    #[error("post failed")]
    Failed(#[source] BoxError),
}

/// Posts messages to connections.
///
/// Two implementations ship: `@connections` through the AWS SDK, and the socket table of the
/// one-machine gateway.
pub trait Outlet: Send + Sync + 'static {
    /// Sends one message to each recipient and returns, by index, those that did not take it.
    ///
    /// Taken means accepted into the gateway's buffer for that connection, in order with what was
    /// posted and awaited before.
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, PostError)>>;

    /// Closes a connection. The client sees code 1000.
    fn close<'a>(&'a self, recipient: &'a Recipient) -> BoxFuture<'a, Result<(), PostError>>;
}
