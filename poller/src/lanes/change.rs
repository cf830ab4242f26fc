//! What the lanes learn about connections.

use std::collections::{BTreeMap, BTreeSet};

use domain::{connection::ConnectionId, topic::Topic};
use jiff::Timestamp;

/// What changed about a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The connection.
    pub id: ConnectionId,
    /// The version of its item.
    pub version: u64,
    /// All topics that it is subscribed to; none if it is closed.
    pub topics: BTreeSet<Topic>,
    /// The topics that it has joined.
    pub joined: BTreeMap<Topic, Start>,
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The first number.
    pub next: u64,
    /// When it went live.
    pub since: Timestamp,
}
