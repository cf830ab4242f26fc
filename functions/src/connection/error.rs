//! Why a request on a WebSocket was not completed, and what the client is sent.

use aws::{connections::ConnectionError, error::StoreError};
use domain::{
    chain::Chain,
    protocol::{ErrorCode, ErrorReply},
    topic::Topic,
};
use tracing::{debug, warn};

use super::send::SendError;
use crate::{access::rules::RulesError, log_id::LogIdError, subscription::SubscribeError};

/// Why a request was not completed.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The request is rejected, with what the client is sent.
    #[error(transparent)]
    Rejected(ErrorReply),
    /// A message could not be sent.
    #[error(transparent)]
    Send(#[from] SendError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The item of the connection could not be changed.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The rules are not known.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// The id of the log is not known.
    #[error(transparent)]
    LogId(#[from] LogIdError),
    /// The permission was withdrawn while events were being sent.
    #[error("the permission for {0} was withdrawn")]
    Withdrawn(Topic),
}

impl From<SubscribeError> for RequestError {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Connection(error) => Self::Connection(error),
            SubscribeError::Store(error) => Self::Store(error),
            SubscribeError::Rules(error) => Self::Rules(error),
            SubscribeError::LogId(error) => Self::LogId(error),
        }
    }
}

impl RequestError {
    /// Returns a rejection.
    pub(super) fn rejected(
        code: ErrorCode,
        message: impl Into<String>,
        topic: Option<String>,
    ) -> Self {
        Self::Rejected(ErrorReply { id: None, code, message: message.into(), topic })
    }

    /// Returns what the client is sent, and logs the cause.
    pub(super) fn into_reply(self) -> ErrorReply {
        let (code, message, topic) = match &self {
            Self::Rejected(reply) => return reply.clone(),
            Self::LogId(LogIdError::Missing) => {
                (ErrorCode::Unavailable, "no poller has started yet; try again", None)
            }
            Self::Store(_)
            | Self::Rules(_)
            | Self::LogId(LogIdError::Store(_))
            | Self::Connection(ConnectionError::Store(_)) => {
                (ErrorCode::Unavailable, "the database is unavailable; try again", None)
            }
            Self::Withdrawn(topic) => (
                ErrorCode::Forbidden,
                "you no longer have permission to receive this topic",
                Some(topic.to_string()),
            ),
            Self::Send(_)
            | Self::Connection(
                ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. },
            ) => (ErrorCode::Internal, "the request could not be completed", None),
        };
        if let Self::Send(SendError::Closed) = &self {
            debug!("the connection closed during a request");
        } else {
            warn!(error = %Chain(&self), "request failed");
        }
        ErrorReply { id: None, code, message: message.to_owned(), topic }
    }
}
