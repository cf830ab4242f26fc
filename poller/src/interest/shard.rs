//! The subscribers in one shard: which topics they want, where each subscription starts, and when
//! their tokens expire.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use aws::control::lanes::LaneNote;
use domain::{
    connection::{Connection, ConnectionId, INTERRUPTED_AFTER, LIFETIME, Subscription},
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;

use crate::lanes::change::{Change, Start};

/// How long before a note a subscription must have gone live to be part of it. The index lags, and the
/// clocks of the writers differ.
const NOTED_AFTER: Duration = Duration::from_secs(15);

/// The subscribers in one shard.
#[derive(Debug)]
pub(super) struct Subscribers {
    shard: Shard,
    connections: HashMap<ConnectionId, Known>,
    /// Connections that have closed, with their versions.
    closed: HashMap<ConnectionId, (u64, Timestamp)>,
    /// How many connections are subscribed to each topic.
    counts: BTreeMap<Topic, usize>,
    /// When tokens expire.
    expiries: BTreeSet<(Timestamp, ConnectionId)>,
    /// When connections have certainly ended.
    ends: BTreeSet<(Timestamp, ConnectionId)>,
    /// When each `subscribe` began or last noted that it goes on.
    joining: BTreeSet<(Timestamp, ConnectionId)>,
    /// The connections that have changed, with the topics that they have joined.
    changed: BTreeMap<ConnectionId, BTreeMap<Topic, Start>>,
}

/// Subscriptions of a connection whose `subscribe` was interrupted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Interrupted {
    pub(super) id: ConnectionId,
    /// When the `subscribe` last noted that it goes on.
    pub(super) since: Timestamp,
    /// The number before the first event of each subscription.
    pub(super) topics: BTreeMap<Topic, u64>,
}

#[derive(Debug)]
struct Known {
    version: u64,
    topics: BTreeMap<Topic, Subscription>,
    connected_at: Timestamp,
    token_expires_at: Option<Timestamp>,
}

impl Subscribers {
    /// Starts without subscribers.
    pub(super) fn new(shard: Shard) -> Self {
        Self {
            shard,
            connections: HashMap::new(),
            closed: HashMap::new(),
            counts: BTreeMap::new(),
            expiries: BTreeSet::new(),
            ends: BTreeSet::new(),
            joining: BTreeSet::new(),
            changed: BTreeMap::new(),
        }
    }

    /// Returns the shard.
    pub(super) fn shard(&self) -> Shard {
        self.shard
    }

    /// Returns the topics with a subscriber.
    pub(super) fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.counts.keys()
    }

    /// Returns whether the token of a connection has expired.
    pub(super) fn has_expired(&self, now: Timestamp) -> bool {
        self.expiries.first().is_some_and(|(at, _)| *at <= now)
    }

    /// Returns whether a connection has changed since the changes were last taken.
    pub(super) fn has_changed(&self) -> bool {
        !self.changed.is_empty()
    }

    /// Applies the item of a connection, unless it is known already.
    pub(super) fn apply(&mut self, connection: Connection) {
        let id = connection.recipient.id.clone();
        let before = self.connections.get(&id).map(|known| known.version);
        let closed = self.closed.get(&id).map(|(version, _)| *version);
        if before.max(closed).is_some_and(|version| version >= connection.version) {
            return;
        }
        let before = self.remove(&id);
        let joined = self.changed.entry(id.clone()).or_default();
        if connection.gone {
            joined.clear();
            self.closed.insert(id, (connection.version, connection.changed_at));
            return;
        }
        joined.retain(|topic, _| connection.topics.contains_key(topic));
        for (topic, subscription) in &connection.topics {
            let known = before.as_ref().and_then(|known| known.topics.get(topic));
            match subscription {
                Subscription::Live { cursor, since } if known != Some(subscription) => {
                    joined.insert(topic.clone(), Start { next: cursor + 1, since: *since });
                }
                Subscription::Live { .. } => {}
                Subscription::Joining { since, .. } => {
                    joined.remove(topic);
                    self.joining.insert((*since, id.clone()));
                }
            }
            *self.counts.entry(topic.clone()).or_default() += 1;
        }
        if let Some(at) = connection.token_expires_at {
            self.expiries.insert((at, id.clone()));
        }
        self.ends.insert((connection.connected_at + LIFETIME, id.clone()));
        let known = Known {
            version: connection.version,
            topics: connection.topics,
            connected_at: connection.connected_at,
            token_expires_at: connection.token_expires_at,
        };
        self.connections.insert(id, known);
    }

    fn remove(&mut self, id: &ConnectionId) -> Option<Known> {
        let known = self.connections.remove(id)?;
        for topic in known.topics.keys() {
            if let Some(count) = self.counts.get_mut(topic) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(topic);
                }
            }
        }
        if let Some(at) = known.token_expires_at {
            self.expiries.remove(&(at, id.clone()));
        }
        self.ends.remove(&(known.connected_at + LIFETIME, id.clone()));
        Some(known)
    }

    /// Removes connections that are older than a connection can be.
    pub(super) fn expire(&mut self, now: Timestamp) {
        while let Some((at, id)) = self.ends.first().cloned()
            && at <= now
        {
            self.ends.pop_first();
            self.remove(&id);
            self.changed.entry(id).or_default().clear();
        }
    }

    /// Takes the connections that closed before a time.
    pub(super) fn take_closed(&mut self, before: Timestamp) -> Vec<ConnectionId> {
        let closed = self.closed.iter().filter(|(_, (_, at))| *at < before);
        let ids: Vec<ConnectionId> = closed.map(|(id, _)| id.clone()).collect();
        for id in &ids {
            self.closed.remove(id);
        }
        ids
    }

    /// Takes the subscriptions whose `subscribe` was interrupted.
    pub(super) fn take_interrupted(&mut self, now: Timestamp) -> Vec<Interrupted> {
        let mut interrupted = Vec::new();
        while let Some((since, id)) = self.joining.first().cloned()
            && since + INTERRUPTED_AFTER <= now
        {
            self.joining.pop_first();
            let Some(known) = self.connections.get(&id) else { continue };
            let topics =
                known.topics.iter().filter_map(|(topic, subscription)| match subscription {
                    Subscription::Joining { cursor, since: noted } if *noted == since => {
                        Some((topic.clone(), *cursor))
                    }
                    Subscription::Joining { .. } | Subscription::Live { .. } => None,
                });
            let topics: BTreeMap<Topic, u64> = topics.collect();
            if !topics.is_empty() {
                interrupted.push(Interrupted { id, since, topics });
            }
        }
        interrupted
    }

    /// Puts subscriptions back that could not be marked as live.
    pub(super) fn put_back(&mut self, interrupted: Interrupted) {
        self.joining.insert((interrupted.since, interrupted.id));
    }

    /// Makes connections join topics, unless `note` says that they have been served. To a poller that has just
    /// begun to follow the shard, all connections look as if they had joined now.
    pub(super) fn join_again(&mut self, is_part: impl Fn(&Topic) -> bool, note: &LaneNote) {
        let noted_until = note.at - NOTED_AFTER;
        for (id, known) in &self.connections {
            for (topic, subscription) in known.topics.iter().filter(|(topic, _)| is_part(topic)) {
                match subscription {
                    Subscription::Live { since, .. }
                        if *since < noted_until && note.sent.contains_key(topic) =>
                    {
                        if let Some(joined) = self.changed.get_mut(id) {
                            joined.remove(topic);
                        }
                    }
                    Subscription::Live { cursor, since } => {
                        let joined = self.changed.entry(id.clone()).or_default();
                        joined.insert(topic.clone(), Start { next: cursor + 1, since: *since });
                    }
                    Subscription::Joining { .. } => {}
                }
            }
        }
    }

    /// Returns how many subscribers each topic has for which `is_served` returns `true`, and takes what
    /// changed.
    pub(super) fn take_changes(
        &mut self,
        is_served: impl Fn(&Topic) -> bool,
    ) -> (BTreeMap<Topic, usize>, Vec<Change>) {
        let counts = self.counts.iter().filter(|(topic, _)| is_served(topic));
        let counts = counts.map(|(topic, count)| (topic.clone(), *count)).collect();
        let changed = std::mem::take(&mut self.changed).into_iter();
        let changes = changed.map(|(id, mut joined)| {
            joined.retain(|topic, _| is_served(topic));
            let known = self.connections.get(&id);
            let closed = || self.closed.get(&id).map_or(0, |(version, _)| *version);
            let version = known.map_or_else(closed, |known| known.version);
            let topics = known.map(|it| it.topics.keys().cloned().collect()).unwrap_or_default();
            Change { id, version, topics, joined }
        });
        (counts, changes.collect())
    }
}

#[cfg(test)]
mod tests {
    use domain::{access::Principal, connection::Recipient};
    use jiff::ToSpan as _;

    use super::*;

    fn topic(tag: &str) -> Topic {
        Topic::mastodon_tag(tag).expect("a topic")
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + seconds.seconds()
    }

    fn live(cursor: u64) -> Subscription {
        Subscription::Live { cursor, since: at(0) }
    }

    /// A connection with these subscriptions.
    fn connection(
        id: &str,
        version: u64,
        topics: impl IntoIterator<Item = (&'static str, Subscription)>,
    ) -> Connection {
        let recipient = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new(id) };
        let principal = Principal { id: "someone".to_owned(), class: "reader".to_owned() };
        let topics = topics.into_iter().map(|(tag, subscription)| (topic(tag), subscription));
        let topics = topics.collect();
        Connection { topics, version, ..Connection::open(recipient, 0, principal, at(0)) }
    }

    fn gone(id: &str, version: u64) -> Connection {
        Connection { gone: true, ..connection(id, version, []) }
    }

    /// Takes the changes: how many subscribers each tag has, and where connections have joined.
    fn take(subscribers: &mut Subscribers) -> (String, String) {
        let (counts, changes) = subscribers.take_changes(|_| true);
        let tag = |topic: &Topic| topic.as_str().rsplit('/').next().map(str::to_owned);
        let counts = counts
            .iter()
            .map(|(topic, count)| format!("{}:{count}", tag(topic).unwrap_or_default()));
        let joined = changes.iter().map(|change| {
            let joined = change.joined.iter();
            let joined =
                joined.map(|(topic, it)| format!("{}@{}", tag(topic).unwrap_or_default(), it.next));
            let joined = joined.collect::<Vec<_>>().join(",");
            format!("{}.{}[{joined}]", change.id, change.version)
        });
        (counts.collect::<Vec<_>>().join(" "), joined.collect::<Vec<_>>().join(" "))
    }

    fn taken(counts: &str, joined: &str) -> (String, String) {
        (counts.to_owned(), joined.to_owned())
    }

    #[test]
    fn subscribers_are_counted_and_join_where_their_subscriptions_start() {
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(connection("1", 2, [("a", live(4)), ("b", live(9))]));
        subscribers.apply(connection("2", 1, []));
        assert_eq!(take(&mut subscribers), taken("a:1 b:1", "1.2[a@5,b@10] 2.1[]"));
        assert!(!subscribers.has_changed());
        subscribers.apply(connection("2", 2, [("b", live(9)), ("c", live(0))]));
        assert_eq!(take(&mut subscribers), taken("a:1 b:2 c:1", "2.2[b@10,c@1]"));
        subscribers.apply(connection("2", 3, [("b", live(9)), ("c", live(7))]));
        assert_eq!(take(&mut subscribers), taken("a:1 b:2 c:1", "2.3[c@8]"), "c starts elsewhere");
        subscribers.apply(gone("1", 3));
        assert_eq!(take(&mut subscribers), taken("b:1 c:1", "1.3[]"));
    }

    #[test]
    fn an_old_version_of_a_connection_changes_nothing() {
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(connection("1", 3, [("a", live(0))]));
        subscribers.apply(gone("2", 2));
        take(&mut subscribers);
        subscribers.apply(connection("1", 2, []));
        subscribers.apply(connection("1", 3, []));
        subscribers.apply(connection("2", 1, [("b", live(0))]));
        assert!(!subscribers.has_changed());
        assert_eq!(take(&mut subscribers), taken("a:1", ""));
    }

    #[test]
    fn a_subscribe_that_was_interrupted_is_returned_after_its_time() {
        let joining = |since| Subscription::Joining { cursor: 6, since: at(since) };
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(connection("1", 2, [("a", joining(10)), ("b", live(0))]));
        subscribers.apply(connection("2", 2, [("a", joining(11))]));
        assert_eq!(take(&mut subscribers), taken("a:2 b:1", "1.2[b@1] 2.2[]"), "a is wanted");
        subscribers.apply(connection("2", 3, [("a", live(6))]));
        assert_eq!(subscribers.take_interrupted(at(16)), []);
        let topics = BTreeMap::from([(topic("a"), 6)]);
        let expected =
            || Interrupted { id: ConnectionId::new("1"), since: at(10), topics: topics.clone() };
        assert_eq!(subscribers.take_interrupted(at(17)), [expected()]);
        assert_eq!(subscribers.take_interrupted(at(99)), [], "once");
        subscribers.put_back(expected());
        assert_eq!(subscribers.take_interrupted(at(99)), [expected()]);
        subscribers.apply(connection("1", 3, [("a", joining(98)), ("b", live(0))]));
        assert_eq!(subscribers.take_interrupted(at(99)), [], "it goes on");
    }

    #[test]
    fn after_a_failover_only_what_was_not_noted_joins_again() {
        let since = |seconds| Subscription::Live { cursor: 2, since: at(seconds) };
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(connection("old", 2, [("a", since(0)), ("b", since(0))]));
        subscribers.apply(connection("new", 2, [("a", since(90))]));
        let sent = BTreeMap::from([(topic("a"), 7)]);
        let note = LaneNote { at: at(100), sent, behind: vec![] };
        // A new leader, and one that has led before.
        for _ in 0..2 {
            subscribers.join_again(|_| true, &note);
            assert_eq!(take(&mut subscribers), taken("a:2 b:1", "new.2[a@3] old.2[b@3]"));
        }
    }

    #[test]
    fn a_token_has_expired_until_its_connection_is_gone_or_has_another() {
        let expiring = |id, version, seconds| Connection {
            token_expires_at: Some(at(seconds)),
            ..connection(id, version, [])
        };
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(expiring("1", 1, 10));
        subscribers.apply(expiring("2", 1, 20));
        assert!(!subscribers.has_expired(at(9)) && subscribers.has_expired(at(10)));
        subscribers.apply(expiring("1", 2, 30));
        assert!(!subscribers.has_expired(at(19)) && subscribers.has_expired(at(20)));
        subscribers.apply(gone("2", 2));
        assert!(!subscribers.has_expired(at(29)) && subscribers.has_expired(at(30)));
    }

    #[test]
    fn a_connection_whose_item_never_says_that_it_closed_ends_with_its_lifetime() {
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(connection("1", 1, [("a", live(0))]));
        let end = at(0) + LIFETIME;
        subscribers.expire(end - 1.second());
        assert_eq!(take(&mut subscribers).0, "a:1");
        subscribers.expire(end);
        assert_eq!(take(&mut subscribers), taken("", "1.0[]"));
    }
}
