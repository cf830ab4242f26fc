//! A client's WebSocket connection and its subscriptions.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;

pub use self::id::ConnectionId;
use crate::{access::Principal, shard::Shard, topic::Topic};

pub(crate) mod id;

/// How long the item of a connection is kept: API Gateway closes every connection after two hours, and the
/// item is kept for ten more minutes.
pub const LIFETIME: Duration = Duration::from_mins(130);

/// How often a `subscribe` that is sending older events notes that it goes on.
pub const JOINING_NOTED_EVERY: Duration = Duration::from_secs(2);

/// How long after its last note a `subscribe` counts as interrupted. A note can be written late, because a request
/// is repeated after three seconds, and the clocks differ.
pub const INTERRUPTED_AFTER: Duration = Duration::from_secs(7);

/// The destination of a message: a connection and the gateway that holds it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Recipient {
    /// Base URL of the gateway's management API, without `/@connections`.
    pub endpoint: Arc<str>,
    /// The connection at that gateway.
    pub id: ConnectionId,
}

/// An open WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The connection and its gateway.
    pub recipient: Recipient,
    /// The shard that holds its item.
    pub shard: Shard,
    /// Its owner.
    pub principal: Principal,
    /// When its token expires; `None` for a connection without a token.
    pub token_expires_at: Option<Timestamp>,
    /// The name under which it counts as an open connection; `None` if connections are not limited.
    pub counted_as: Option<String>,
    /// Its subscriptions.
    pub topics: BTreeMap<Topic, Subscription>,
    /// When the handshake began.
    pub connected_at: Timestamp,
    /// When its item last changed.
    pub changed_at: Timestamp,
    /// The number of changes to its item.
    pub version: u64,
    /// Whether it is closed.
    pub gone: bool,
}

/// How a connection gets the events of a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// A `subscribe` is still sending older events; `push` does not send yet.
    Joining {
        /// The number before the first event of the subscription.
        cursor: u64,
        /// When the `subscribe` began, or last noted that it goes on.
        since: Timestamp,
    },
    /// The connection has the events up to `cursor`, and `push` sends those after it.
    Live {
        /// The last number that was sent when the subscription went live.
        cursor: u64,
        /// When it went live.
        since: Timestamp,
    },
}

impl Subscription {
    /// Returns the last number that `push` does not have to send, and since when that holds.
    pub fn start(&self) -> (u64, Timestamp) {
        match self {
            Self::Joining { cursor, since } | Self::Live { cursor, since } => (*cursor, *since),
        }
    }
}

impl Connection {
    /// Makes a connection that opens at `now` and has no subscriptions.
    pub fn open(recipient: Recipient, shard: Shard, principal: Principal, now: Timestamp) -> Self {
        Self {
            recipient,
            shard,
            principal,
            token_expires_at: None,
            counted_as: None,
            topics: BTreeMap::new(),
            connected_at: now,
            changed_at: now,
            version: 1,
            gone: false,
        }
    }

    /// Returns when its item expires.
    pub fn expires_at(&self) -> Timestamp {
        self.connected_at + LIFETIME
    }

    /// Returns whether its token has expired at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.token_expires_at.is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_and_its_token_expire() {
        let now: Timestamp = "2026-11-22T10:00:00Z".parse().expect("a time");
        let to = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new("a") };
        let mut connection = Connection::open(to, 0, Principal::anonymous(), now);
        assert_eq!(connection.expires_at(), now + LIFETIME);
        assert!(!connection.has_expired(Timestamp::MAX), "it has no token");
        connection.token_expires_at = Some(now);
        assert!(connection.has_expired(now));
        assert!(!connection.has_expired(now - std::time::Duration::from_millis(1)));
    }

    #[test]
    fn a_subscription_starts_after_a_number() {
        let since = Timestamp::UNIX_EPOCH;
        let starts = [
            Subscription::Joining { cursor: 7, since }.start(),
            Subscription::Live { cursor: 8, since }.start(),
        ];
        assert_eq!(starts, [(7, since), (8, since)]);
    }
}
