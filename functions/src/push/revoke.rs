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
use jiff::SignedDuration;
use tracing::{debug, info, warn};

use super::{budget::Budget, pusher::Pusher, view::Revocations};

/// Number of revocations that are carried out concurrently.
const CONCURRENCY: usize = 64;

/// Most that the clocks of two functions differ.
const CLOCK_ERROR: SignedDuration = SignedDuration::from_secs(1);

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

    /// Notifies a client that it has lost the right to topics, and removes them from the connection's item.
    /// Returns `false` if that has to be retried.
    ///
    /// The subscriptions are removed only after the gateway has accepted the notification. Otherwise a client
    /// that does not receive it would wait for events forever.
    async fn withdraw(
        &self,
        shard: Shard,
        recipient: &Recipient,
        topics: &BTreeSet<Topic>,
    ) -> bool {
        let notified_at = self.clock.now();
        if let Some(is_done) = self.notify_of_loss(recipient, topics).await {
            return is_done;
        }
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
        for topic in removed.keys() {
            info!(connection.id = %recipient.id, %topic, "the rules ended a subscription");
        }
        // A client can subscribe again before the removal, if `connection` does not know the rules yet.
        let renewed = removed
            .into_iter()
            .filter(|(_, subscription)| subscription.start().1 + CLOCK_ERROR > notified_at);
        let renewed: BTreeSet<Topic> = renewed.map(|(topic, _)| topic).collect();
        self.notify_of_loss(recipient, &renewed).await.unwrap_or(true)
    }

    /// Notifies a client that it has lost the right to topics. Returns `None` if the gateway has accepted
    /// that; otherwise whether the connection is closed.
    async fn notify_of_loss(
        &self,
        recipient: &Recipient,
        topics: &BTreeSet<Topic>,
    ) -> Option<bool> {
        for topic in topics {
            let message = "you no longer have permission to receive this topic";
            match self.notify(recipient, ErrorCode::Forbidden, message, Some(topic)).await {
                Ok(()) => {}
                Err(OutletError::Gone) => return Some(true),
                Err(_) => return Some(false),
            }
        }
        None
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
        // A client that does not receive the reason notices that the connection is closed.
        let _ = self.notify(recipient, code, message, None).await;
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

    /// Sends an error to a client.
    async fn notify(
        &self,
        recipient: &Recipient,
        code: ErrorCode,
        message: &str,
        topic: Option<&Topic>,
    ) -> Result<(), OutletError> {
        let topic = topic.map(Topic::to_string);
        let reply = Reply::Error(ErrorReply { id: None, code, message: message.to_owned(), topic });
        let posted = self.post(recipient, reply.to_json()).await;
        if let Err(error) = &posted {
            let error = Chain(error);
            debug!(connection.id = %recipient.id, %error, "could not send an error to a client");
        }
        posted
    }
}
