//! Revocations: subscriptions that the rules no longer permit, and connections that are no longer
//! permitted or whose tokens have expired.

use std::collections::BTreeSet;

use aws::connections::ConnectionError;
use domain::{
    chain::Chain,
    connection::Recipient,
    outlet::OutletError,
    protocol::{ErrorCode, ErrorReply, Reply},
    shard::Shard,
    topic::Topic,
};
use futures_util::{StreamExt as _, stream};
use tracing::{debug, info, warn};

use super::{budget::Budget, pusher::Pusher, view::Revocations};

/// Number of revocations that are carried out concurrently.
const CONCURRENCY: usize = 64;

/// The result of closing a connection.
enum CloseOutcome {
    Closed,
    /// The client has sent a token that is still valid.
    Renewed,
    Retry,
}

/// What became of the revocations of a job.
#[derive(Default)]
pub(super) struct Revoked {
    /// The connections that were closed.
    pub(super) closed: Vec<Recipient>,
    /// What has to be retried.
    pub(super) unfinished: Revocations,
}

impl Pusher {
    /// Carries out revocations, until the budget is used up.
    pub(super) async fn revoke(
        &self,
        shard: Shard,
        revocations: Revocations,
        budget: &Budget,
    ) -> Revoked {
        let Revocations { subscriptions, connections } = revocations;
        let mut revoked = Revoked::default();
        let withdrawing = subscriptions.into_iter().map(async |(recipient, topics)| {
            let is_allowed = budget.take(topics.len()) > 0;
            let is_done = is_allowed
                && budget.run(self.withdraw(shard, &recipient, &topics)).await.unwrap_or(false);
            (!is_done).then_some((recipient, topics))
        });
        let undone: Vec<Option<(Recipient, BTreeSet<Topic>)>> =
            stream::iter(withdrawing).buffer_unordered(CONCURRENCY).collect().await;
        revoked.unfinished.subscriptions = undone.into_iter().flatten().collect();

        let closing = connections.into_iter().map(async |(recipient, code)| {
            let outcome = if budget.take(1) > 0 {
                budget.run(self.close(shard, &recipient, code)).await
            } else {
                None
            };
            (recipient, code, outcome.unwrap_or(CloseOutcome::Retry))
        });
        let closed: Vec<(Recipient, ErrorCode, CloseOutcome)> =
            stream::iter(closing).buffer_unordered(CONCURRENCY).collect().await;
        for (recipient, code, outcome) in closed {
            match outcome {
                CloseOutcome::Closed => revoked.closed.push(recipient),
                // The view learns the new expiry from the item.
                CloseOutcome::Renewed => {}
                CloseOutcome::Retry => revoked.unfinished.connections.push((recipient, code)),
            }
        }
        revoked
    }

    /// Removes topics from a connection's item and notifies the client. Returns `false` if that has to be
    /// retried.
    async fn withdraw(
        &self,
        shard: Shard,
        recipient: &Recipient,
        topics: &BTreeSet<Topic>,
    ) -> bool {
        let removed = match self.connections.leave(shard, &recipient.id, topics).await {
            Ok(removed) => removed,
            Err(ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. }) => {
                return true;
            }
            Err(ConnectionError::Store(error)) => {
                warn!(error = %Chain(&error), "could not remove subscriptions; retrying later");
                return false;
            }
        };
        for topic in removed {
            info!(connection.id = %recipient.id, %topic, "the rules ended a subscription");
            let message = "you no longer have permission to receive this topic";
            self.notify(recipient, ErrorCode::Forbidden, message, Some(&topic)).await;
        }
        true
    }

    /// Closes a connection and sends the client the reason, unless it has sent a new token meanwhile.
    async fn close(&self, shard: Shard, recipient: &Recipient, code: ErrorCode) -> CloseOutcome {
        let message = if code == ErrorCode::Expired {
            match self.connections.get(shard, &recipient.id).await {
                Ok(Some(connection)) if !connection.has_expired(self.clock.now()) => {
                    return CloseOutcome::Renewed;
                }
                Ok(_) => {}
                Err(error) => {
                    warn!(error = %Chain(&error), "could not read a connection; retrying later");
                    return CloseOutcome::Retry;
                }
            }
            "the token has expired; connect again with a new one"
        } else {
            "you no longer have permission to connect"
        };
        self.notify(recipient, code, message, None).await;
        match self.outlet.close(recipient).await {
            Ok(()) | Err(OutletError::Gone) => {}
            Err(error) => {
                warn!(
                    connection.id = %recipient.id,
                    error = %Chain(&error),
                    "could not close a connection; retrying later"
                );
                return CloseOutcome::Retry;
            }
        }
        info!(connection.id = %recipient.id, ?code, "closed a connection");
        CloseOutcome::Closed
    }

    /// Sends an error to a client. A client that does not receive it notices that no more events arrive.
    async fn notify(
        &self,
        recipient: &Recipient,
        code: ErrorCode,
        message: &str,
        topic: Option<&Topic>,
    ) {
        let topic = topic.map(Topic::to_string);
        let reply = Reply::Error(ErrorReply { id: None, code, message: message.to_owned(), topic });
        if let Err(error) = self.post(recipient, reply.to_json()).await {
            debug!(
                connection.id = %recipient.id,
                error = %Chain(&error),
                "could not send an error to a client"
            );
        }
    }
}
