//! Subscribing: recording it, sending what came before, and handing over to `push`.

use std::collections::{BTreeMap, BTreeSet};

use aws::connections::Connection;
use domain::{
    access::{Limits, Right},
    protocol::{Reply, Subscribed},
    topic::Topic,
};
use jiff::Timestamp;

use crate::{app::App, connection::replay::ReplayError};

/// Rounds of catching up before `push` takes over; each is shorter than the one before.
const ROUNDS: usize = 5;

/// How far behind `push` may take over, in events.
const CLOSE_ENOUGH: u64 = 100;

/// Where a subscription starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With the next event; on a topic with snapshots, with the newest one.
    Newest,
    /// After the event with this number.
    After(u64),
    /// With this many of the newest events.
    Last(u64),
}

impl Start {
    /// Whether it asks for events of the past.
    pub fn is_history(self) -> bool {
        match self {
            Self::Newest => false,
            Self::After(_) | Self::Last(_) => true,
        }
    }
}

/// What a connection was subscribed to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Where each topic stands.
    pub topics: Vec<Subscribed>,
    /// The topics that were not subscribed to before.
    pub added: BTreeSet<Topic>,
}

/// A topic on its way.
struct Joining {
    topic: Topic,
    /// The next number to send.
    next: u64,
    /// The topic's newest number.
    head: u64,
    /// The first number of its history.
    oldest: u64,
    /// Whether it starts with events of the past.
    with_history: bool,
}

impl App {
    /// Subscribes a connection to topics.
    ///
    /// With `answer`, the connection is told so in a `subscribed` message with this `id`, and sent
    /// what the topics start with. Otherwise all is left to `push`, so that who asks for a
    /// subscription elsewhere needs no permission to post.
    ///
    /// # Errors
    ///
    /// [`ReplayError`]. If it is not `Connection`, the subscription stands, and `push` carries on
    /// from where the sending stopped.
    pub async fn subscribe(
        &self,
        connection: &Connection,
        wishes: &BTreeMap<Topic, Start>,
        answer: Option<Option<String>>,
        now: Timestamp,
    ) -> Result<Outcome, ReplayError> {
        let connections = &self.tables.connections;
        let (shard, recipient) = (connection.shard, &connection.recipient);
        let limits = self.limits_of(&connection.principal).await?;
        let topics: BTreeSet<Topic> = wishes.keys().cloned().collect();
        let joined = connections.join(shard, &recipient.id, &topics, limits.topics, now).await?;

        let mut joining = Vec::new();
        let mut outcome = Outcome { topics: Vec::new(), added: joined.added };
        for (topic, start) in wishes {
            let (one, subscribed) = self.start(topic, *start, &limits, now).await?;
            joining.push(one);
            outcome.topics.push(subscribed);
        }
        let sent = if let Some(id) = answer {
            let reply = Reply::Subscribed { id, topics: outcome.topics.clone() };
            self.say(recipient, reply.to_json()).await?;
            self.catch_up(connection, &mut joining, now).await
        } else {
            Ok(())
        };
        let cursors = joining.into_iter().map(|one| (one.topic, one.next - 1)).collect();
        connections.go_live(shard, &recipient.id, &cursors, now).await?;
        sent?;
        Ok(outcome)
    }

    async fn start(
        &self,
        topic: &Topic,
        start: Start,
        limits: &Limits,
        now: Timestamp,
    ) -> Result<(Joining, Subscribed), ReplayError> {
        let log = &self.tables.log;
        let newest = log.newest(topic).await?;
        let head = newest.as_ref().map_or(0, |newest| newest.entry.last());
        let floor = limits.oldest(head);
        let (next, recovered) = match start {
            Start::Newest => {
                let snapshot = newest.and_then(|newest| newest.snapshot);
                (snapshot.filter(|_| topic.kind().has_snapshots()).unwrap_or(head + 1), None)
            }
            // A client that is ahead of the log had it from another log.
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
        let topic = topic.clone();
        let subscribed = Subscribed { topic: topic.clone(), seq: head, recovered };
        let with_history = start.is_history();
        // A snapshot is where a book starts, and no history.
        let oldest = if with_history { floor } else { 1 };
        Ok((Joining { topic, next, head, oldest, with_history }, subscribed))
    }

    async fn catch_up(
        &self,
        connection: &Connection,
        joining: &mut [Joining],
        now: Timestamp,
    ) -> Result<(), ReplayError> {
        for one in joining {
            for _ in 0..ROUNDS {
                if one.next > one.head {
                    break;
                }
                let right = match one.with_history {
                    true => Right::History(&one.topic),
                    false => Right::Subscribe(&one.topic),
                };
                self.replay(connection, right, one.next..=one.head, one.oldest, now).await?;
                one.next = one.head + 1;
                let newest = self.tables.log.newest(&one.topic).await?;
                let head = newest.map_or(one.head, |newest| newest.entry.last());
                if head < one.head + CLOSE_ENOUGH {
                    break;
                }
                one.head = head;
            }
        }
        Ok(())
    }
}
