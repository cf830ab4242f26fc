//! Revocations: subscriptions that the rules no longer permit, and connections that are no longer
//! permitted or whose tokens have expired.

use std::collections::BTreeSet;

use aws::connections::ConnectionError;
use domain::{
    chain::Chain,
    connection::Recipient,
    outlet::OutletError,
    protocol::{ErrorCode, ErrorReply, Reply},
    push::Report,
    shard::Shard,
    topic::Topic,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tracing::{debug, info, warn};

use super::{
    pusher::Pusher,
    view::{Revocations, View},
};

/// Number of revocations that are carried out concurrently.
const CONCURRENCY: usize = 64;

/// The result of closing a connection.
enum CloseOutcome {
    Closed,
    /// The client has sent a token that is still valid.
    Renewed,
    Retry,
}

impl Pusher {
    /// Carries out the pending revocations, and returns how many have to be retried.
    pub(super) async fn revoke(
        &self,
        view: &mut View,
        shard: Shard,
        report: &mut Report,
        now: Timestamp,
    ) -> usize {
        let Revocations { subscriptions, connections } = view.take_revocations(now);
        if subscriptions.is_empty() && connections.is_empty() {
            return 0;
        }
        let mut unfinished = Revocations::default();
        let withdrawing = subscriptions.into_iter().map(async |(recipient, topics)| {
            let is_done = self.withdraw(shard, &recipient, &topics, now).await;
            (!is_done).then_some((recipient, topics))
        });
        let undone: Vec<Option<(Recipient, BTreeSet<Topic>)>> =
            stream::iter(withdrawing).buffer_unordered(CONCURRENCY).collect().await;
        unfinished.subscriptions = undone.into_iter().flatten().collect();

        let closing = connections.into_iter().map(async |(recipient, code)| {
            let outcome = self.close(shard, &recipient, code, now).await;
            (recipient, code, outcome)
        });
        let closed: Vec<(Recipient, ErrorCode, CloseOutcome)> =
            stream::iter(closing).buffer_unordered(CONCURRENCY).collect().await;
        for (recipient, code, outcome) in closed {
            match outcome {
                CloseOutcome::Closed => {
                    report.gone += 1;
                    view.remove(&recipient.id);
                }
                // The view learns the new expiry from the item.
                CloseOutcome::Renewed => {}
                CloseOutcome::Retry => unfinished.connections.push((recipient, code)),
            }
        }
        view.keep_revocations(unfinished)
    }

    /// Removes topics from a connection's item and notifies the client. Returns `false` if that has to be
    /// retried.
    async fn withdraw(
        &self,
        shard: Shard,
        recipient: &Recipient,
        topics: &BTreeSet<Topic>,
        now: Timestamp,
    ) -> bool {
        let removed = match self.connections.leave(shard, &recipient.id, topics, now).await {
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
            info!(connection.id = %recipient.id, %topic, "removed a subscription that the rules no longer permit");
            let message = "you no longer have permission to receive this topic";
            self.notify(recipient, ErrorCode::Forbidden, message, Some(&topic)).await;
        }
        true
    }

    /// Sends the client the reason and closes the connection, unless the client has sent a new token in the
    /// meantime.
    async fn close(
        &self,
        shard: Shard,
        recipient: &Recipient,
        code: ErrorCode,
        now: Timestamp,
    ) -> CloseOutcome {
        let message = if code == ErrorCode::Expired {
            match self.connections.get(shard, &recipient.id).await {
                Ok(Some(connection)) if !connection.has_expired(now) => {
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
        if let Err(error) = self.connections.close(shard, &recipient.id, now).await {
            // `$disconnect` records it too.
            warn!(error = %Chain(&error), "could not record that a connection closed");
        }
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
        let reply = ErrorReply { id: None, code, message: message.to_owned(), topic };
        if let Err(error) = self.post(recipient, Reply::Error(reply).to_json()).await {
            debug!(
                connection.id = %recipient.id,
                error = %Chain(&error),
                "could not send an error to a client"
            );
        }
    }
}
