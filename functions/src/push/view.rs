//! The view of a shard: its connections and their topics, grouped so that connections with the same topics
//! share their messages.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use aws::{
    connections::Connections,
    error::StoreError,
    reader::{Refresh, ShardReader},
};
use domain::{
    access::{Principal, Right},
    backlog::Backlog,
    connection::{Connection, ConnectionId, Recipient, Subscription},
    entry::Entry,
    protocol::ErrorCode,
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::access::rules::InForce;

/// How old the view can be if this process has not written to the table.
const REFRESH_AFTER: Duration = Duration::from_millis(200);

/// A new view treats a topic that went live longer ago than this as up to date, because the previous
/// process already sent the recent events.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// The connections of one shard.
pub(super) struct View {
    reader: ShardReader,
    writes: watch::Receiver<u64>,
    refreshed_at: Option<Timestamp>,
    connections: HashMap<ConnectionId, Known>,
    groups: Vec<Group>,
    /// The indexes of groups without members, which are reused.
    empty: Vec<usize>,
    by_topics: HashMap<Arc<[Topic]>, usize>,
    by_topic: HashMap<Topic, BTreeSet<usize>>,
    stragglers: HashMap<ConnectionId, Straggler>,
    /// Connections that the poller knows, but this view does not know yet.
    announced: BTreeSet<ConnectionId>,
    /// The rules that the topics of the connections were checked against.
    rules: InForce,
    /// When tokens expire.
    expiries: BTreeSet<(Timestamp, ConnectionId)>,
    /// Revocations that are not carried out yet.
    revocations: Revocations,
}

/// Withdrawn permissions that the clients have not been notified of yet.
#[derive(Default)]
pub(super) struct Revocations {
    /// Subscriptions that are no longer permitted. `push` has stopped serving them.
    pub subscriptions: Vec<(Recipient, BTreeSet<Topic>)>,
    /// Connections that are no longer permitted, and why.
    pub connections: Vec<(Recipient, ErrorCode)>,
}

/// Connections that are subscribed to the same topics and are up to date.
pub(super) struct Group {
    /// Their topics, sorted.
    pub topics: Arc<[Topic]>,
    /// The connections.
    pub members: Vec<Recipient>,
}

/// A connection that is behind or slow, and is served individually.
#[derive(Default)]
pub(super) struct Straggler {
    /// By topic, the last number that it has, until it is up to date.
    pub behind: BTreeMap<Topic, u64>,
    /// Whether the poller knows the connection and sends all frames of its topics. Then the log has every
    /// event that it missed.
    pub is_announced: bool,
    /// Frames and gaps that it has not accepted yet.
    pub backlog: Backlog,
}

impl Straggler {
    /// Keeps an entry that the connection has not accepted.
    pub(super) fn keep(&mut self, entry: Entry) {
        match entry {
            Entry::Frame(frame) => self.backlog.push(frame),
            Entry::Lost { topic, seq, last } => self.backlog.push_lost(topic, seq..=last),
        }
    }
}

struct Known {
    recipient: Recipient,
    principal: Arc<Principal>,
    token_expires_at: Option<Timestamp>,
    /// Its topics, sorted.
    topics: Arc<[Topic]>,
    /// When each topic went live.
    since: Box<[Timestamp]>,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Group { index: usize, member: usize },
    Straggler,
}

impl View {
    /// Returns an empty view.
    pub(super) fn new(connections: &Connections, shard: Shard, rules: InForce) -> Self {
        Self {
            reader: ShardReader::new(connections.clone(), shard),
            writes: connections.writes(),
            refreshed_at: None,
            connections: HashMap::new(),
            groups: Vec::new(),
            empty: Vec::new(),
            by_topics: HashMap::new(),
            by_topic: HashMap::new(),
            stragglers: HashMap::new(),
            announced: BTreeSet::new(),
            rules,
            expiries: BTreeSet::new(),
            revocations: Revocations::default(),
        }
    }

    /// Reads the connections that have changed, unless the view is recent, and marks the `joined` ones as
    /// announced. Stops serving subscriptions that the rules do not permit.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails; the view then stays as it was.
    pub(super) async fn refresh(
        &mut self,
        joined: &[ConnectionId],
        rules: InForce,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if rules.version != self.rules.version {
            self.rules = rules;
            self.check_all();
        }
        let has_unknown = joined.iter().any(|id| !self.connections.contains_key(id));
        let is_old = self.refreshed_at.is_none_or(|at| at + REFRESH_AFTER <= now);
        if has_unknown || is_old || self.writes.has_changed().unwrap_or(false) {
            self.writes.mark_unchanged();
            match self.reader.refresh(now).await? {
                Refresh::All(all) => {
                    let open: BTreeSet<&ConnectionId> =
                        all.iter().map(|connection| &connection.recipient.id).collect();
                    let gone: Vec<ConnectionId> =
                        self.connections.keys().filter(|id| !open.contains(id)).cloned().collect();
                    for id in &gone {
                        self.remove(id);
                    }
                    for connection in &all {
                        self.update(connection, now);
                    }
                }
                Refresh::Changed(changed) => {
                    for connection in &changed {
                        if connection.gone {
                            self.remove(&connection.recipient.id);
                        } else {
                            self.update(connection, now);
                        }
                    }
                }
            }
            self.refreshed_at = Some(now);
        }
        for id in joined {
            match self.stragglers.get_mut(id) {
                Some(straggler) => straggler.is_announced = true,
                None if self.connections.contains_key(id) => {}
                None => {
                    self.announced.insert(id.clone());
                }
            }
        }
        Ok(())
    }

    /// Returns the groups that are subscribed to one of `topics`.
    pub(super) fn groups_for<'a>(
        &'a self,
        topics: impl Iterator<Item = &'a Topic>,
    ) -> Vec<&'a Group> {
        let indexes: BTreeSet<usize> =
            topics.filter_map(|topic| self.by_topic.get(topic)).flatten().copied().collect();
        indexes.into_iter().map(|index| &self.groups[index]).collect()
    }

    /// Returns the stragglers and the topics of each.
    pub(super) fn stragglers(&self) -> Vec<(Recipient, Arc<[Topic]>)> {
        self.stragglers
            .keys()
            .filter_map(|id| self.connections.get(id))
            .map(|known| (known.recipient.clone(), known.topics.clone()))
            .collect()
    }

    /// Returns the topics of a connection.
    pub(super) fn topics_of(&self, id: &ConnectionId) -> Option<Arc<[Topic]>> {
        self.connections.get(id).map(|known| known.topics.clone())
    }

    /// Returns the state of a straggler.
    pub(super) fn straggler_mut(&mut self, id: &ConnectionId) -> Option<&mut Straggler> {
        self.stragglers.get_mut(id)
    }

    /// Takes a connection out of its group, to be served individually.
    pub(super) fn make_straggler(&mut self, id: &ConnectionId) -> &mut Straggler {
        self.leave_group(id);
        self.stragglers.entry(id.clone()).or_default()
    }

    /// Returns stragglers that are up to date to their groups.
    pub(super) fn regroup(&mut self) {
        let up_to_date: Vec<ConnectionId> = self
            .stragglers
            .iter()
            .filter(|(_, it)| it.behind.is_empty() && it.backlog.is_empty())
            .map(|(id, _)| id.clone())
            .collect();
        for id in up_to_date {
            self.stragglers.remove(&id);
            self.join_group(&id);
        }
    }

    /// Returns how many connections have a backlog.
    pub(super) fn waiting(&self) -> usize {
        self.stragglers.values().filter(|straggler| !straggler.backlog.is_empty()).count()
    }

    /// Takes the pending revocations, including those of tokens that have expired.
    pub(super) fn take_revocations(&mut self, now: Timestamp) -> Revocations {
        let mut revocations = std::mem::take(&mut self.revocations);
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let Some((_, id)) = self.expiries.pop_first() else { break };
            if let Some(known) = self.connections.get(&id) {
                revocations.connections.push((known.recipient.clone(), ErrorCode::Expired));
            }
        }
        revocations
    }

    /// Keeps revocations that have to be retried, and returns how many are pending.
    pub(super) fn keep_revocations(&mut self, revocations: Revocations) -> usize {
        self.revocations.subscriptions.extend(revocations.subscriptions);
        self.revocations.connections.extend(revocations.connections);
        self.revocations.subscriptions.len() + self.revocations.connections.len()
    }

    /// Checks every connection against the rules, which have changed.
    fn check_all(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.keys().cloned().collect();
        for id in ids {
            let Some(known) = self.connections.get(&id) else { continue };
            if !self.rules.allows(&known.principal, Right::Connect) {
                self.revocations.connections.push((known.recipient.clone(), ErrorCode::Forbidden));
            }
            let denied: BTreeSet<Topic> = known
                .topics
                .iter()
                .filter(|it| !self.rules.allows(&known.principal, Right::Subscribe(it)))
                .cloned()
                .collect();
            if denied.is_empty() {
                continue;
            }
            let (topics, since): (Vec<Topic>, Vec<Timestamp>) = known
                .topics
                .iter()
                .zip(&known.since)
                .filter(|(topic, _)| !denied.contains(topic))
                .map(|(topic, since)| (topic.clone(), *since))
                .unzip();
            self.revocations.subscriptions.push((known.recipient.clone(), denied));
            self.leave_group(&id);
            if let Some(known) = self.connections.get_mut(&id) {
                known.topics = topics.into();
                known.since = since.into();
            }
            self.settle(&id);
        }
    }

    /// Updates a straggler after its topics have changed; any other connection joins a group.
    fn settle(&mut self, id: &ConnectionId) {
        let Some(known) = self.connections.get(id) else { return };
        match self.stragglers.get_mut(id) {
            Some(straggler) => {
                let topics = &known.topics;
                straggler.behind.retain(|topic, _| topics.binary_search(topic).is_ok());
                straggler.backlog.retain(|topic| topics.binary_search(topic).is_ok());
            }
            None => self.join_group(id),
        }
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, id: &ConnectionId) {
        self.leave_group(id);
        self.stragglers.remove(id);
        self.announced.remove(id);
        if let Some(known) = self.connections.remove(id)
            && let Some(at) = known.token_expires_at
        {
            self.expiries.remove(&(at, id.clone()));
        }
    }

    fn update(&mut self, connection: &Connection, now: Timestamp) {
        let id = &connection.recipient.id;
        let principal = &connection.principal;
        if !self.rules.allows(principal, Right::Connect) {
            self.revocations.connections.push((connection.recipient.clone(), ErrorCode::Forbidden));
        }
        let denied: BTreeSet<Topic> = connection
            .topics
            .keys()
            .filter(|it| !self.rules.allows(principal, Right::Subscribe(it)))
            .cloned()
            .collect();
        let live: Vec<(&Topic, u64, Timestamp)> = connection
            .topics
            .iter()
            .filter(|(topic, subscription)| subscription.is_live(now) && !denied.contains(*topic))
            .map(|(topic, subscription)| match subscription {
                Subscription::Live { cursor, since } => (topic, *cursor, *since),
                // Its `subscribe` was interrupted; what it has sent is not known.
                Subscription::Joining { since } => (topic, 0, *since),
            })
            .collect();
        let fresh_after = now - FRESH_FOR;
        let before = self.connections.get(id);
        let mut behind = BTreeMap::new();
        for (topic, cursor, since) in &live {
            let known = before.and_then(|known| {
                let index = known.topics.binary_search(topic).ok()?;
                known.since.get(index)
            });
            let is_joining = match known {
                Some(known) => known != since,
                None => *since > fresh_after,
            };
            if is_joining {
                behind.insert((*topic).clone(), *cursor);
            }
        }
        let topics: Arc<[Topic]> = live.iter().map(|(topic, _, _)| (*topic).clone()).collect();
        let since = live.iter().map(|(_, _, since)| *since).collect();

        let principal = match before {
            Some(known) if known.principal.as_ref() == principal => known.principal.clone(),
            _ => Arc::new(principal.clone()),
        };
        if let Some(at) = before.and_then(|known| known.token_expires_at) {
            self.expiries.remove(&(at, id.clone()));
        }
        if let Some(at) = connection.token_expires_at {
            self.expiries.insert((at, id.clone()));
        }
        if !denied.is_empty() {
            self.revocations.subscriptions.push((connection.recipient.clone(), denied));
        }
        self.leave_group(id);
        let known = Known {
            recipient: connection.recipient.clone(),
            principal,
            token_expires_at: connection.token_expires_at,
            topics: topics.clone(),
            since,
            place: Place::Straggler,
        };
        self.connections.insert(id.clone(), known);
        let is_announced = self.announced.remove(id);
        if !behind.is_empty() || self.stragglers.contains_key(id) {
            let straggler = self.stragglers.entry(id.clone()).or_default();
            straggler.behind.extend(behind);
            straggler.is_announced = is_announced;
        }
        self.settle(id);
    }

    fn join_group(&mut self, id: &ConnectionId) {
        let Some(known) = self.connections.get_mut(id) else { return };
        let index = if let Some(index) = self.by_topics.get(&known.topics) {
            *index
        } else {
            let group = Group { topics: known.topics.clone(), members: Vec::new() };
            let index = if let Some(index) = self.empty.pop() {
                self.groups[index] = group;
                index
            } else {
                self.groups.push(group);
                self.groups.len() - 1
            };
            self.by_topics.insert(known.topics.clone(), index);
            for topic in known.topics.iter() {
                self.by_topic.entry(topic.clone()).or_default().insert(index);
            }
            index
        };
        let members = &mut self.groups[index].members;
        known.place = Place::Group { index, member: members.len() };
        members.push(known.recipient.clone());
    }

    fn leave_group(&mut self, id: &ConnectionId) {
        let Some(known) = self.connections.get_mut(id) else { return };
        let Place::Group { index, member } = known.place else { return };
        known.place = Place::Straggler;
        let group = &mut self.groups[index];
        group.members.swap_remove(member);
        if let Some(moved) = group.members.get(member)
            && let Some(moved) = self.connections.get_mut(&moved.id)
        {
            moved.place = Place::Group { index, member };
        }
        let group = &mut self.groups[index];
        if group.members.is_empty() {
            for topic in group.topics.iter() {
                if let Some(groups) = self.by_topic.get_mut(topic) {
                    groups.remove(&index);
                    if groups.is_empty() {
                        self.by_topic.remove(topic);
                    }
                }
            }
            self.by_topics.remove(&group.topics);
            self.empty.push(index);
        }
    }
}
