//! The subscribers in one shard: their topics, and when their tokens expire.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use aws::reader::Refresh;
use domain::{
    connection::{Connection, ConnectionId},
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;

/// The subscribers in one shard.
#[derive(Debug)]
pub(super) struct Subscribers {
    shard: Shard,
    connections: HashMap<ConnectionId, Vec<Topic>>,
    /// How many connections are subscribed to each topic.
    counts: BTreeMap<Topic, usize>,
    /// When the token of each connection expires.
    expires_at: HashMap<ConnectionId, Timestamp>,
    expiries: BTreeSet<(Timestamp, ConnectionId)>,
}

impl Subscribers {
    /// Starts without subscribers.
    pub(super) fn new(shard: Shard) -> Self {
        Self {
            shard,
            connections: HashMap::new(),
            counts: BTreeMap::new(),
            expires_at: HashMap::new(),
            expiries: BTreeSet::new(),
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

    /// Applies what changed. Returns the connections with new subscriptions, or `None` if nothing
    /// changed.
    pub(super) fn apply(&mut self, refresh: Refresh) -> Option<Vec<ConnectionId>> {
        let mut joined = Vec::new();
        match refresh {
            Refresh::All(all) => {
                let before = std::mem::take(&mut self.connections);
                self.counts.clear();
                self.expires_at.clear();
                self.expiries.clear();
                for connection in &all {
                    let is_new = before.get(&connection.recipient.id).is_none_or(|topics| {
                        connection.topics.keys().any(|topic| !topics.contains(topic))
                    });
                    if is_new && !connection.topics.is_empty() {
                        joined.push(connection.recipient.id.clone());
                    }
                    self.set(connection);
                }
            }
            Refresh::Changed(changed) if changed.is_empty() => return None,
            Refresh::Changed(changed) => {
                for connection in &changed {
                    self.set(connection);
                    if !connection.gone && !connection.topics.is_empty() {
                        joined.push(connection.recipient.id.clone());
                    }
                }
            }
        }
        Some(joined)
    }

    fn set(&mut self, connection: &Connection) {
        let id = &connection.recipient.id;
        for topic in self.connections.remove(id).unwrap_or_default() {
            if let Some(count) = self.counts.get_mut(&topic) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&topic);
                }
            }
        }
        if let Some(at) = self.expires_at.remove(id) {
            self.expiries.remove(&(at, id.clone()));
        }
        if let Some(at) = connection.token_expires_at
            && !connection.gone
        {
            self.expires_at.insert(id.clone(), at);
            self.expiries.insert((at, id.clone()));
        }
        if connection.gone || connection.topics.is_empty() {
            return;
        }
        for topic in connection.topics.keys() {
            *self.counts.entry(topic.clone()).or_default() += 1;
        }
        self.connections.insert(id.clone(), connection.topics.keys().cloned().collect());
    }
}

#[cfg(test)]
mod tests {
    use domain::{
        access::Principal,
        connection::{Recipient, Subscription},
    };
    use jiff::ToSpan as _;

    use super::*;

    fn topic(tag: &str) -> Topic {
        Topic::mastodon_tag(tag).expect("a topic")
    }

    /// A connection that is subscribed to these tags, separated by spaces.
    fn connection(id: &str, tags: &str) -> Connection {
        let now = Timestamp::UNIX_EPOCH;
        let recipient = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new(id) };
        let principal = Principal { id: "someone".to_owned(), class: "reader".to_owned() };
        let live = Subscription::Live { cursor: 0, since: now };
        let topics = tags.split_whitespace().map(|tag| (topic(tag), live));
        Connection { topics: topics.collect(), ..Connection::open(recipient, 0, principal, now) }
    }

    /// The connections that joined, and then the tags with a subscriber.
    fn apply(subscribers: &mut Subscribers, refresh: Refresh) -> (Option<Vec<String>>, String) {
        let joined =
            subscribers.apply(refresh).map(|ids| ids.iter().map(ToString::to_string).collect());
        let tags = subscribers.topics().filter_map(|it| it.as_str().rsplit('/').next());
        (joined, tags.collect::<Vec<_>>().join(" "))
    }

    fn joined(ids: &str, tags: &str) -> (Option<Vec<String>>, String) {
        (Some(ids.split_whitespace().map(str::to_owned).collect()), tags.to_owned())
    }

    #[test]
    fn a_topic_is_wanted_until_its_last_subscriber_has_left() {
        let mut subscribers = Subscribers::new(0);
        let refresh = Refresh::All(vec![connection("1", "a b"), connection("2", "")]);
        assert_eq!(apply(&mut subscribers, refresh), joined("1", "a b"));
        let refresh = Refresh::Changed(vec![connection("2", "b c")]);
        assert_eq!(apply(&mut subscribers, refresh), joined("2", "a b c"));
        let gone = Connection { gone: true, ..connection("1", "a b") };
        assert_eq!(apply(&mut subscribers, Refresh::Changed(vec![gone])), joined("", "b c"));
        let refresh = Refresh::Changed(vec![connection("2", "")]);
        assert_eq!(apply(&mut subscribers, refresh), joined("", ""));
        assert_eq!(apply(&mut subscribers, Refresh::Changed(vec![])), (None, String::new()));
    }

    #[test]
    fn reading_all_connections_again_announces_only_new_subscriptions() {
        let mut subscribers = Subscribers::new(0);
        let all = vec![connection("1", "a"), connection("2", "b"), connection("3", "c")];
        assert_eq!(apply(&mut subscribers, Refresh::All(all)), joined("1 2 3", "a b c"));
        let all = vec![connection("1", "a"), connection("2", "b d"), connection("4", "a")];
        assert_eq!(apply(&mut subscribers, Refresh::All(all)), joined("2 4", "a b d"));
    }

    #[test]
    fn a_token_has_expired_until_its_connection_is_gone_or_has_another() {
        let at = |seconds: i64| Timestamp::UNIX_EPOCH + seconds.seconds();
        let expiring =
            |id, seconds| Connection { token_expires_at: Some(at(seconds)), ..connection(id, "a") };
        let mut subscribers = Subscribers::new(0);
        subscribers.apply(Refresh::All(vec![expiring("1", 10), expiring("2", 20)]));
        assert!(!subscribers.has_expired(at(9)) && subscribers.has_expired(at(10)));
        subscribers.apply(Refresh::Changed(vec![expiring("1", 30)]));
        assert!(!subscribers.has_expired(at(19)) && subscribers.has_expired(at(20)));
        let gone = Connection { gone: true, ..expiring("2", 20) };
        subscribers.apply(Refresh::Changed(vec![gone]));
        assert!(!subscribers.has_expired(at(29)) && subscribers.has_expired(at(30)));
        subscribers.apply(Refresh::All(vec![connection("1", "a")]));
        assert!(!subscribers.has_expired(at(99)));
    }
}
