//! What `push` knows of a shard: who wants which topics, grouped so that equals get one message.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use aws::{
    connections::{Connection, Connections, Shard, Subscription},
    error::StoreError,
    log::Entry,
    post::Recipient,
    reader::{Refresh, ShardReader},
};
use domain::{
    access::{Principal, Right},
    backlog::Backlog,
    connection::ConnectionId,
    protocol::ErrorCode,
    topic::Topic,
};
use jiff::Timestamp;
use tokio::sync::watch;

use crate::access::rules::InForce;

/// How old the view may be when nothing was written in this process.
const REFRESH_AFTER: Duration = Duration::from_millis(200);

/// To a fresh view, a topic that went live longer ago than this is in step: somebody else, whose
/// place it takes, has sent what came since.
const FRESH_FOR: Duration = Duration::from_secs(10);

/// The connections of one shard.
pub(crate) struct View {
    reader: ShardReader,
    writes: watch::Receiver<u64>,
    refreshed_at: Option<Timestamp>,
    connections: HashMap<ConnectionId, Known>,
    groups: Vec<Group>,
    /// Groups without members, to be used again.
    empty: Vec<usize>,
    by_topics: HashMap<Arc<[Topic]>, usize>,
    by_topic: HashMap<Topic, BTreeSet<usize>>,
    aside: HashMap<ConnectionId, Aside>,
    /// Connections that the poller knows, and this view does not yet.
    announced: BTreeSet<ConnectionId>,
    /// By which rules the topics of the connections were looked at.
    rules: InForce,
    /// When tokens expire.
    expiries: BTreeSet<(Timestamp, ConnectionId)>,
    /// What the rules have ended, until it is done.
    over: Over,
}

/// What connections have to be told, and their items have to say.
#[derive(Default)]
pub(crate) struct Over {
    /// Topics that connections may no longer have. They are served no more.
    pub withdrawn: Vec<(Recipient, BTreeSet<Topic>)>,
    /// Connections that may not be, and why.
    pub ended: Vec<(Recipient, ErrorCode)>,
}

/// Connections that want the same topics, and are in step.
pub(crate) struct Group {
    /// In order.
    pub topics: Arc<[Topic]>,
    /// Those connections.
    pub members: Vec<Recipient>,
}

/// A connection that is served by itself.
#[derive(Default)]
pub(crate) struct Aside {
    /// By topic, where it stands, until it is in step.
    pub behind: BTreeMap<Topic, u64>,
    /// Whether the poller sends all frames of its topics, so that the log has what is missing.
    pub announced: bool,
    /// What it did not take.
    pub backlog: Backlog,
}

impl Aside {
    /// Keeps an entry that the connection did not take.
    pub(crate) fn keep(&mut self, entry: Entry) {
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
    /// In order.
    topics: Arc<[Topic]>,
    /// When each of them went live.
    since: Box<[Timestamp]>,
    place: Place,
}

#[derive(Clone, Copy)]
enum Place {
    Group { index: usize, member: usize },
    Aside,
}

impl View {
    /// A view that knows nothing yet.
    pub(crate) fn new(connections: &Connections, shard: Shard, rules: InForce) -> Self {
        Self {
            reader: ShardReader::new(connections.clone(), shard),
            writes: connections.writes(),
            refreshed_at: None,
            connections: HashMap::new(),
            groups: Vec::new(),
            empty: Vec::new(),
            by_topics: HashMap::new(),
            by_topic: HashMap::new(),
            aside: HashMap::new(),
            announced: BTreeSet::new(),
            rules,
            expiries: BTreeSet::new(),
            over: Over::default(),
        }
    }

    /// Learns what has changed, if it can have, and notes who is `joined`. Whoever may no longer
    /// have a topic by these rules is served it no more.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails; what was known still is.
    pub(crate) async fn refresh(
        &mut self,
        joined: &[ConnectionId],
        rules: InForce,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if rules.version != self.rules.version {
            self.rules = rules;
            self.look_again();
        }
        let unknown = joined.iter().any(|id| !self.connections.contains_key(id));
        let old = self.refreshed_at.is_none_or(|at| at + REFRESH_AFTER <= now);
        if unknown || old || self.writes.has_changed().unwrap_or(false) {
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
            match self.aside.get_mut(id) {
                Some(aside) => aside.announced = true,
                None if self.connections.contains_key(id) => {}
                None => {
                    self.announced.insert(id.clone());
                }
            }
        }
        Ok(())
    }

    /// The groups that want one of `topics`.
    pub(crate) fn groups_for<'a>(
        &'a self,
        topics: impl Iterator<Item = &'a Topic>,
    ) -> Vec<&'a Group> {
        let groups = topics.filter_map(|topic| self.by_topic.get(topic)).flatten();
        let groups: BTreeSet<usize> = groups.copied().collect();
        groups.into_iter().map(|index| &self.groups[index]).collect()
    }

    /// The connections that are served by themselves, and the topics of each.
    pub(crate) fn aside(&self) -> Vec<(Recipient, Arc<[Topic]>)> {
        let known = self.aside.keys().filter_map(|id| self.connections.get(id));
        known.map(|known| (known.recipient.clone(), known.topics.clone())).collect()
    }

    /// The topics of a connection.
    pub(crate) fn topics_of(&self, id: &ConnectionId) -> Option<Arc<[Topic]>> {
        self.connections.get(id).map(|known| known.topics.clone())
    }

    /// What is kept of a connection that is served by itself.
    pub(crate) fn aside_mut(&mut self, id: &ConnectionId) -> Option<&mut Aside> {
        self.aside.get_mut(id)
    }

    /// Serves a connection by itself from here on.
    pub(crate) fn set_aside(&mut self, id: &ConnectionId) -> &mut Aside {
        self.leave_group(id);
        self.aside.entry(id.clone()).or_default()
    }

    /// Puts those back into their groups that are in step.
    pub(crate) fn regroup(&mut self) {
        let done =
            self.aside.iter().filter(|(_, it)| it.behind.is_empty() && it.backlog.is_empty());
        let done: Vec<ConnectionId> = done.map(|(id, _)| id.clone()).collect();
        for id in done {
            self.aside.remove(&id);
            self.join_group(&id);
        }
    }

    /// How many connections have not taken all of theirs.
    pub(crate) fn waiting(&self) -> usize {
        self.aside.values().filter(|aside| !aside.backlog.is_empty()).count()
    }

    /// What the rules and the time have ended since this was asked last.
    pub(crate) fn take_over(&mut self, now: Timestamp) -> Over {
        let mut over = std::mem::take(&mut self.over);
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let Some((_, id)) = self.expiries.pop_first() else { break };
            if let Some(known) = self.connections.get(&id) {
                over.ended.push((known.recipient.clone(), ErrorCode::Expired));
            }
        }
        over
    }

    /// Keeps what could not be done for the next time, and returns how much that is.
    pub(crate) fn keep_over(&mut self, over: Over) -> usize {
        self.over.withdrawn.extend(over.withdrawn);
        self.over.ended.extend(over.ended);
        self.over.withdrawn.len() + self.over.ended.len()
    }

    /// Looks at every connection by the rules, which have changed.
    fn look_again(&mut self) {
        let ids: Vec<ConnectionId> = self.connections.keys().cloned().collect();
        for id in ids {
            let Some(known) = self.connections.get(&id) else { continue };
            if !self.rules.allows(&known.principal, Right::Connect) {
                self.over.ended.push((known.recipient.clone(), ErrorCode::Forbidden));
            }
            let denied = known.topics.iter();
            let denied =
                denied.filter(|it| !self.rules.allows(&known.principal, Right::Subscribe(it)));
            let denied: BTreeSet<Topic> = denied.cloned().collect();
            if denied.is_empty() {
                continue;
            }
            let kept = known.topics.iter().zip(&known.since);
            let kept = kept.filter(|(topic, _)| !denied.contains(topic));
            let (topics, since): (Vec<Topic>, Vec<Timestamp>) =
                kept.map(|(topic, since)| (topic.clone(), *since)).unzip();
            self.over.withdrawn.push((known.recipient.clone(), denied));
            self.leave_group(&id);
            if let Some(known) = self.connections.get_mut(&id) {
                known.topics = topics.into();
                known.since = since.into();
            }
            self.settle(&id);
        }
    }

    /// Puts a connection that is in no group where it belongs.
    fn settle(&mut self, id: &ConnectionId) {
        let Some(known) = self.connections.get(id) else { return };
        match self.aside.get_mut(id) {
            Some(aside) => {
                let topics = &known.topics;
                aside.behind.retain(|topic, _| topics.binary_search(topic).is_ok());
                aside.backlog.retain(|topic| topics.binary_search(topic).is_ok());
            }
            None => self.join_group(id),
        }
    }

    /// Forgets a connection.
    pub(crate) fn remove(&mut self, id: &ConnectionId) {
        self.leave_group(id);
        self.aside.remove(id);
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
            self.over.ended.push((connection.recipient.clone(), ErrorCode::Forbidden));
        }
        let denied = connection.topics.keys();
        let denied = denied.filter(|it| !self.rules.allows(principal, Right::Subscribe(it)));
        let denied: BTreeSet<Topic> = denied.cloned().collect();
        let live = connection.topics.iter();
        let live = live
            .filter(|(topic, subscription)| subscription.is_live(now) && !denied.contains(*topic));
        let live: Vec<(&Topic, u64, Timestamp)> = live
            .map(|(topic, subscription)| match subscription {
                Subscription::Live { cursor, since } => (topic, *cursor, *since),
                // Its subscribe has died; nobody knows what it sent.
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
            let joins = match known {
                Some(known) => known != since,
                None => *since > fresh_after,
            };
            if joins {
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
            self.over.withdrawn.push((connection.recipient.clone(), denied));
        }
        self.leave_group(id);
        let known = Known {
            recipient: connection.recipient.clone(),
            principal,
            token_expires_at: connection.token_expires_at,
            topics: topics.clone(),
            since,
            place: Place::Aside,
        };
        self.connections.insert(id.clone(), known);
        let announced = self.announced.remove(id);
        if !behind.is_empty() || self.aside.contains_key(id) {
            let aside = self.aside.entry(id.clone()).or_default();
            aside.behind.extend(behind);
            aside.announced = announced;
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
        known.place = Place::Aside;
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
