//! Subscribing a connection to topics, over its WebSocket or over REST.

use std::collections::{BTreeMap, BTreeSet};

use aws::{connections::ConnectionError, error::StoreError};
use domain::{access::Limits, connection::Connection, protocol::Subscribed, topic::Topic};
use jiff::Timestamp;

use crate::{access::rules::RulesError, app::App};

/// Why a connection could not be subscribed.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// The connection is closed, or has reached its topic limit.
    #[error(transparent)]
    Connection(#[from] ConnectionError),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rules are not known.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event; on a topic with snapshots, with the newest snapshot.
    Newest,
    /// After the event with this sequence number.
    After(u64),
    /// With this many of the newest events.
    Last(u64),
}

impl Start {
    /// Returns whether the subscription starts with events from the past.
    pub fn is_history(self) -> bool {
        match self {
            Self::Newest => false,
            Self::After(_) | Self::Last(_) => true,
        }
    }
}

/// A connection that has joined topics. `push` sends their events after `App::go_live`.
#[derive(Clone, Debug)]
pub struct Joined {
    /// The newest sequence number of each topic.
    pub topics: Vec<Subscribed>,
    /// The topics that the connection was not subscribed to before.
    pub added: BTreeSet<Topic>,
    /// The position of the connection in each topic.
    pub(crate) positions: Vec<Position>,
}

/// The position of a connection in a topic that it is joining.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub topic: Topic,
    /// The next sequence number to send.
    pub next: u64,
    /// The newest sequence number of the topic.
    pub head: u64,
    /// The first sequence number that the connection can have.
    pub oldest: u64,
    /// Whether the subscription starts with events from the past.
    pub with_history: bool,
}

impl App {
    /// Subscribes a connection to topics and leaves all sending to `push`, so that the caller needs
    /// no permission to post.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] when the connection cannot join the topics, or the database fails.
    pub async fn subscribe(
        &self,
        connection: &Connection,
        starts: &BTreeMap<Topic, Start>,
        now: Timestamp,
    ) -> Result<Joined, SubscribeError> {
        let joined = self.join(connection, starts, now).await?;
        self.go_live(connection, &joined.positions).await?;
        Ok(joined)
    }

    /// Records that a connection joins topics, and returns where it starts in each of them.
    ///
    /// # Errors
    ///
    /// [`SubscribeError`] when the connection cannot join the topics, or the database fails.
    pub(crate) async fn join(
        &self,
        connection: &Connection,
        starts: &BTreeMap<Topic, Start>,
        now: Timestamp,
    ) -> Result<Joined, SubscribeError> {
        let limits = self.rules.current().await?.limits_of(&connection.principal);
        let mut positions = Vec::new();
        let mut subscribed = Vec::new();
        for (topic, start) in starts {
            let (position, reply) = self.start(topic, *start, &limits, now).await?;
            positions.push(position);
            subscribed.push(reply);
        }
        // The item says where each subscription starts. If the rest is interrupted, `push` sends the
        // events from there.
        let cursors = positions.iter().map(|it| (it.topic.clone(), it.next - 1)).collect();
        let id = &connection.recipient.id;
        let connections = &self.tables.connections;
        let added = connections.join(connection.shard, id, &cursors, limits.topics).await?;
        Ok(Joined { topics: subscribed, added, positions })
    }

    /// Hands the topics over to `push`, which sends the events from these positions on.
    ///
    /// # Errors
    ///
    /// [`ConnectionError`] when the connection is closed, or the database fails.
    pub(crate) async fn go_live(
        &self,
        connection: &Connection,
        positions: &[Position],
    ) -> Result<(), ConnectionError> {
        let sent = positions.iter().map(|it| (it.topic.clone(), it.next - 1)).collect();
        let id = &connection.recipient.id;
        self.tables.connections.go_live(connection.shard, id, &sent).await
    }

    async fn start(
        &self,
        topic: &Topic,
        start: Start,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<(Position, Subscribed), StoreError> {
        let log = &self.tables.log;
        let newest = log.newest(topic).await?;
        let head = newest.as_ref().map_or(0, |newest| newest.entry.last());
        let floor = limits.oldest(head);
        let (next, recovered) = match start {
            Start::Newest => {
                let snapshot = newest.and_then(|newest| newest.snapshot);
                (snapshot.filter(|_| topic.kind().has_snapshots()).unwrap_or(head + 1), None)
            }
            // A client that is ahead of the log received its events from another log.
            Start::After(seq) if seq > head => (head + 1, Some(false)),
            Start::After(seq) => {
                let oldest = log.oldest(topic, now).await?.unwrap_or(head + 1).max(floor);
                (seq + 1, Some(seq == head || oldest <= seq + 1))
            }
            Start::Last(count) => {
                let oldest = log.oldest(topic, now).await?.unwrap_or(head + 1).max(floor);
                ((head + 1).saturating_sub(count).max(oldest), None)
            }
        };
        let with_history = start.is_history();
        // The snapshot that an order book starts with does not count as history.
        let oldest = if with_history { floor } else { 1 };
        let position = Position { topic: topic.clone(), next, head, oldest, with_history };
        Ok((position, Subscribed { topic: topic.clone(), seq: head, recovered }))
    }
}
