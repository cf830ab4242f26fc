//! A client's WebSocket connection and its subscriptions.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{access::Principal, shard::Shard, topic::Topic};

/// How long an item outlives the two hours that API Gateway gives a connection.
pub const LIFETIME: Duration = Duration::from_mins(130);

/// How long a `subscribe` may take to send what came before; past it, its topics count as live.
const JOINING_FOR: Duration = Duration::from_secs(30);

/// The id API Gateway gave a WebSocket connection.
///
/// Opaque: on AWS it is 16 characters of URL-safe base64 that end in `=`, other gateways differ.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ConnectionId(Arc<str>);

impl ConnectionId {
    /// Wraps an id as it came from the gateway.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// Returns the id as the gateway wrote it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ConnectionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a message goes: a connection and the gateway that holds it.
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
    /// Which connection, at which gateway.
    pub recipient: Recipient,
    /// Where its item is.
    pub shard: Shard,
    /// Whose it is.
    pub principal: Principal,
    /// Until when its token is good; without a token, for ever.
    pub token_expires_at: Option<Timestamp>,
    /// Under which name it counts among the open connections; `None` where that has no limit.
    pub counted_as: Option<String>,
    /// What it is subscribed to.
    pub topics: BTreeMap<Topic, Subscription>,
    /// When the handshake began.
    pub connected_at: Timestamp,
    /// When its item last changed.
    pub changed_at: Timestamp,
    /// Counts the changes of its item.
    pub version: u64,
    /// Whether it is closed.
    pub gone: bool,
}

/// How a connection gets a topic's events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// A `subscribe` is still sending what came before; nobody else sends.
    Joining {
        /// When that began.
        since: Timestamp,
    },
    /// It has the events up to `cursor`, and gets those after it from `push`.
    Live {
        /// The last number it was sent when it went live.
        cursor: u64,
        /// When it went live.
        since: Timestamp,
    },
}

impl Subscription {
    /// Whether `push` sends the topic's events at `now`.
    pub fn is_live(&self, now: Timestamp) -> bool {
        match self {
            Self::Live { .. } => true,
            Self::Joining { since } => {
                now.duration_since(*since) > JOINING_FOR.try_into().unwrap_or_default()
            }
        }
    }
}

impl Connection {
    /// A connection that opens at `now`, subscribed to nothing.
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

    /// When its item expires.
    pub fn expires_at(&self) -> Timestamp {
        self.connected_at + LIFETIME
    }

    /// Whether its token is no longer good at `now`.
    pub fn has_expired(&self, now: Timestamp) -> bool {
        self.token_expires_at.is_some_and(|at| at <= now)
    }
}
