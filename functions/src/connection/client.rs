//! The client that sent a message, and what its requests need.

use std::time::Duration;

use aws::error::StoreError;
use bytes::Bytes;
use domain::{
    access::{Limits, Principal, Right},
    connection::{Connection, Recipient},
    protocol::{ErrorCode, ErrorReply, Reply},
};
use jiff::Timestamp;

use super::{
    error::RequestError,
    send::{BUSY_TIMEOUT, SendError, send},
};
use crate::{
    access::{caller::Caller, history::Grant, rates::RateLimited, rules::RulesError},
    app::App,
};

/// Longest topic, in characters, that an error message repeats.
const MAX_TOPIC_CHARS: usize = 128;

/// The client that sent a message.
pub(super) struct Client<'a> {
    pub app: &'a App,
    pub now: Timestamp,
    /// Where messages for the client are posted.
    pub recipient: Recipient,
    /// The caller at the handshake.
    pub caller: Caller,
    pub connected_at: Timestamp,
}

impl Client<'_> {
    /// Sends a message and waits while the connection is busy.
    pub(super) async fn send(&self, message: Bytes) -> Result<(), SendError> {
        self.send_within(BUSY_TIMEOUT, message).await
    }

    /// Sends a message and waits for `timeout` at most while the connection is busy.
    pub(super) async fn send_within(
        &self,
        timeout: Duration,
        message: Bytes,
    ) -> Result<(), SendError> {
        send(self.app.outlet.as_ref(), &self.recipient, message, timeout).await
    }

    /// Sends a reply.
    pub(super) async fn reply(&self, reply: &Reply) -> Result<(), SendError> {
        self.send(reply.to_json()).await
    }

    /// Sends an error about one topic of a request.
    pub(super) async fn reply_error(
        &self,
        id: Option<&String>,
        code: ErrorCode,
        message: String,
        topic: &str,
    ) -> Result<(), SendError> {
        let topic = Some(shortened(topic));
        self.reply(&Reply::Error(ErrorReply { id: id.cloned(), code, message, topic })).await
    }

    /// Loads the connection. Its class can have changed since the handshake.
    pub(super) async fn connection(&self) -> Result<Connection, RequestError> {
        let connection = self.find_connection().await?.ok_or(SendError::Closed)?;
        if connection.has_expired(self.now) {
            let message = "the token has expired; the connection is closing";
            return Err(RequestError::rejected(ErrorCode::Expired, message, None));
        }
        Ok(connection)
    }

    async fn find_connection(&self) -> Result<Option<Connection>, StoreError> {
        let id = &self.recipient.id;
        let shard = self.app.shard_of(id).await?;
        self.app.tables.connections.get(shard, id).await
    }

    /// Checks that the rules grant a right to a topic, which the client spelled as in `topic`.
    pub(super) async fn permit(
        &self,
        principal: &Principal,
        right: Right<'_>,
        topic: &str,
    ) -> Result<(), RequestError> {
        if self.app.rules.current().await?.allows(principal, right) {
            return Ok(());
        }
        let message = match right {
            Right::Subscribe(_) => "you do not have permission to subscribe to this topic",
            Right::History(_) => "you do not have permission to read the history of this topic",
            Right::Connect | Right::Admin => "you do not have permission to do this",
        };
        Err(RequestError::rejected(ErrorCode::Forbidden, message, Some(shortened(topic))))
    }

    /// Begins a request that is expected to be given so many bytes of history.
    pub(super) async fn begin_history(
        &self,
        principal: &Principal,
        expected_bytes: u64,
    ) -> Result<Option<Grant<'_>>, RequestError> {
        let limit = self.limits(principal).await?.history_bytes_per_second;
        let client = &self.caller.counted_as;
        let begun = self.app.histories.begin(client, limit, expected_bytes, self.now);
        begun.map_err(|RateLimited(wait)| {
            let limit = limit.unwrap_or_default();
            let seconds = wait.as_secs() + 1;
            let message =
                format!("the limit is {limit} bytes of history per second; wait {seconds} seconds");
            RequestError::rejected(ErrorCode::RateLimited, message, None)
        })
    }

    /// Returns the limits of the connection. Its message rate is fixed at the handshake.
    pub(super) async fn limits(&self, principal: &Principal) -> Result<Limits, RulesError> {
        let rules = self.app.rules.current().await?;
        let messages_per_second = rules.limits_of(&self.caller.principal).messages_per_second;
        Ok(Limits { messages_per_second, ..rules.limits_of(principal) })
    }
}

fn shortened(topic: &str) -> String {
    topic.chars().take(MAX_TOPIC_CHARS).collect()
}
