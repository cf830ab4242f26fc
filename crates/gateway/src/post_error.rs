//! The errors of posts to connections.

/// Why a connection did not accept a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostError {
    /// The connection is closed or was never open (HTTP 410).
    #[error("connection is gone")]
    Gone,
    /// The connection's send buffer is full, or the account's quota is used up (HTTP 429).
    #[error("connection accepts no more messages at the moment")]
    Busy,
    /// The message exceeds the size limit of a message (HTTP 413).
    #[error("message is too large")]
    TooLarge,
    /// The message is not UTF-8 text (HTTP 400).
    #[error("message is not UTF-8 text")]
    NotText,
    /// [`FaultRates::failed_post`](crate::FaultRates::failed_post) injected a failure (HTTP 500).
    #[error("a failure was injected for a test")]
    Injected,
}
