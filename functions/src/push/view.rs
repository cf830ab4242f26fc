//! The view of a shard: its connections and their topics, grouped so that connections with the same topics
//! share their messages. It is only a cache of the table.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use aws::{connections::Connections, error::StoreError, reader::ShardReader};
use domain::{
    access::{Principal, Right},
    chain::Chain,
    connection::{Connection, ConnectionId, LIFETIME, Recipient, Subscription},
    protocol::ErrorCode,
    push::{Behind, Changed, Job, Lag, NAME_CHANGES_FOR},
    shard::Shard,
    topic::Topic,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::warn;

use super::segment::Segment;
use crate::access::rules::InForce;

/// How old the view can be if a job names no change that it does not have. Jobs name changes for
/// longer than that, so that none is missed.
const REFRESH_AFTER: Duration = Duration::from_secs(5);

/// How old the view can be if the index cannot be read. Jobs name changes for longer than that, by as much as
/// the index can lag and the clocks can differ.
const USABLE_FOR: Duration = NAME_CHANGES_FOR.saturating_sub(Duration::from_secs(7));

/// How often connections that are older than a connection can be are removed, in case their items
/// are gone.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// How long after it went live a subscription is served only if the job names it. Jobs name it for longer,
/// and the clocks differ.
const FRESH_FOR: Duration = NAME_CHANGES_FOR.saturating_sub(Duration::from_secs(3));

/// Number of items that are read concurrently.
const CONCURRENCY: usize = 32;

/// The connections of one shard.
pub(super) struct View {
    connections: Connections,
    /// Notified of the changes that this process makes.
    writes: watch::Receiver<u64>,
    reader: ShardReader,
    shard: Shard,
    refreshed_at: Option<Timestamp>,
    expired_at: Timestamp,
    known: HashMap<ConnectionId, Known>,
    /// By connection: the topics whose subscriptions went live recently, and when.
    fresh: BTreeMap<ConnectionId, BTreeMap<Topic, Timestamp>>,
    /// Connections that have closed, with the version at which they were found closed.
    closed: HashMap<ConnectionId, (u64, Timestamp)>,
    groups: Vec<Group>,
    /// The indexes of groups without members, which are reused.
    empty: Vec<usize>,
    by_topics: HashMap<Arc<[Topic]>, usize>,
    by_topic: HashMap<Topic, BTreeSet<usize>>,
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

/// What a job has to do, without the view.
#[derive(Default)]
pub(super) struct Plan {
    /// The groups that are sent something.
    pub shares: Vec<Share>,
    /// The connections that are behind.
    pub stragglers: Vec<Straggler>,
    /// Connections of the job that are closed.
    pub closed: Vec<ConnectionId>,
    pub revocations: Revocations,
}

/// A connection that is behind.
#[derive(Clone, Debug)]
pub(super) struct Straggler {
    pub(super) recipient: Recipient,
    /// The next number to send, for each of its topics that the job is about.
    pub(super) next: BTreeMap<Topic, u64>,
    pub(super) lag: Lag,
    pub(super) waits: bool,
}

/// What a group is sent.
pub(super) struct Share {
    pub members: Arc<Vec<Recipient>>,
    /// The indexes of the segments of its topics that are not empty.
    pub segments: Vec<usize>,
}

/// Connections that are subscribed to the same topics.
struct Group {
    /// Their topics, sorted.
    topics: Arc<[Topic]>,
    /// The connections. A job can still be posting to them.
    members: Arc<Vec<Recipient>>,
}

struct Known {
    recipient: Recipient,
    principal: Arc<Principal>,
    token_expires_at: Option<Timestamp>,
    connected_at: Timestamp,
    version: u64,
    /// Its topics, sorted.
    topics: Arc<[Topic]>,
    /// The index of its group, and its place among the members.
    place: (usize, usize),
}

impl View {
    /// Returns an empty view.
    pub(super) fn new(connections: &Connections, shard: Shard, rules: InForce) -> Self {
        Self {
            connections: connections.clone(),
            writes: connections.writes(),
            reader: ShardReader::new(connections.clone(), shard),
            shard,
            refreshed_at: None,
            expired_at: Timestamp::UNIX_EPOCH,
            known: HashMap::new(),
            fresh: BTreeMap::new(),
            closed: HashMap::new(),
            groups: Vec::new(),
            empty: Vec::new(),
            by_topics: HashMap::new(),
            by_topic: HashMap::new(),
            rules,
            expiries: BTreeSet::new(),
            revocations: Revocations::default(),
        }
    }

    /// Makes the view as new as a job requires. Stops serving subscriptions that the rules do not permit.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when a change that the job names cannot be read, or the view can miss one that the job
    /// no longer names.
    pub(super) async fn refresh(
        &mut self,
        job: &Job,
        rules: InForce,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if rules.version != self.rules.version {
            self.rules = rules;
            self.check_all();
        }
        let is_old = self.refreshed_at.is_none_or(|at| at + REFRESH_AFTER <= now);
        let is_outdated = |it: &Changed| self.is_outdated(&it.connection, it.version);
        let has_written = self.writes.has_changed().unwrap_or(false);
        if is_old || has_written || job.changed.iter().any(is_outdated) {
            self.writes.mark_unchanged();
            match self.reader.refresh(now).await {
                Ok(changed) => {
                    self.refreshed_at = Some(now);
                    for connection in &changed {
                        self.apply(connection, now);
                    }
                }
                Err(error) if self.refreshed_at.is_none_or(|at| at + USABLE_FOR <= now) => {
                    return Err(error);
                }
                Err(error) => {
                    warn!(error = %Chain(&error), "could not read the changed connections; reading those of the job one by one");
                }
            }
        }
        self.read_outdated(job, now).await?;
        if self.expired_at + EXPIRE_EVERY <= now {
            self.expired_at = now;
            self.expire(now);
        }
        Ok(())
    }

    /// Returns whether the view has an older version of a connection.
    fn is_outdated(&self, id: &ConnectionId, version: u64) -> bool {
        let known = self.known.get(id).map(|known| known.version);
        let closed = self.closed.get(id).map(|(version, _)| *version);
        known.max(closed).is_none_or(|ours| ours < version)
    }

    /// Reads the items of the job's connections that the index did not return.
    async fn read_outdated(&mut self, job: &Job, now: Timestamp) -> Result<(), StoreError> {
        let changed = job.changed.iter().map(|it| (&it.connection, it.version));
        let behind = job.behind.iter().map(|it| (&it.connection, 0));
        let outdated: BTreeMap<&ConnectionId, u64> =
            changed.chain(behind).filter(|(id, version)| self.is_outdated(id, *version)).collect();
        let connections = self.connections.clone();
        let shard = self.shard;
        let mut reads = Vec::with_capacity(outdated.len());
        for (id, version) in outdated {
            let connections = &connections;
            reads.push(async move { (id, version, connections.get(shard, id).await) });
        }
        let mut reads = stream::iter(reads).buffer_unordered(CONCURRENCY);
        while let Some((id, version, read)) = reads.next().await {
            match read? {
                Some(connection) => self.apply(&connection, now),
                None => self.close(id, version.max(1), now),
            }
        }
        Ok(())
    }

    /// Applies an item, unless the view has it already.
    fn apply(&mut self, connection: &Connection, now: Timestamp) {
        let id = &connection.recipient.id;
        if !self.is_outdated(id, connection.version) {
            return;
        }
        if connection.gone {
            self.close(id, connection.version, now);
        } else {
            self.update(connection, now);
        }
    }

    fn close(&mut self, id: &ConnectionId, version: u64, now: Timestamp) {
        self.remove(id);
        self.closed.insert(id.clone(), (version, now));
    }

    fn expire(&mut self, now: Timestamp) {
        let expired = self.known.values().filter(|known| known.connected_at + LIFETIME <= now);
        let expired: Vec<ConnectionId> = expired.map(|known| known.recipient.id.clone()).collect();
        for id in &expired {
            self.remove(id);
        }
        self.closed.retain(|_, (_, at)| *at + LIFETIME > now);
    }

    /// Divides a job into what the groups are sent, and what the connections that are behind are sent.
    /// Takes the pending revocations.
    pub(super) fn plan(&mut self, job: &Job, segments: &[Segment], now: Timestamp) -> Plan {
        let mut plan = Plan { revocations: self.take_revocations(now), ..Plan::default() };
        let mut unknown = self.unknown_subscriptions(job, now);
        let mut left_out: HashMap<usize, HashSet<usize>> = HashMap::new();
        for behind in &job.behind {
            let unknown = unknown.remove(&behind.connection).unwrap_or_default();
            if !self.known.contains_key(&behind.connection) {
                plan.closed.push(behind.connection.clone());
            }
            self.leave_out(behind, &unknown, segments, &mut left_out, &mut plan);
        }
        for (connection, unknown) in unknown {
            let next = BTreeMap::new();
            let behind = Behind { connection, next, lag: Lag::None, waits: false };
            self.leave_out(&behind, &unknown, segments, &mut left_out, &mut plan);
        }
        let mut by_group: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (index, segment) in segments.iter().enumerate().filter(|(_, it)| it.prev < it.to) {
            for group in self.by_topic.get(&segment.topic).into_iter().flatten() {
                by_group.entry(*group).or_default().push(index);
            }
        }
        for (index, segments) in by_group {
            let members = &self.groups[index].members;
            let members = match left_out.get(&index) {
                None => members.clone(),
                Some(left_out) => {
                    let members = members.iter().enumerate();
                    let members = members.filter(|(member, _)| !left_out.contains(member));
                    Arc::new(members.map(|(_, recipient)| recipient.clone()).collect())
                }
            };
            if !members.is_empty() {
                plan.shares.push(Share { members, segments });
            }
        }
        plan
    }

    /// Leaves a connection out of the fan-out, to be served by itself on all topics but the `unknown` ones.
    fn leave_out(
        &self,
        behind: &Behind,
        unknown: &BTreeSet<Topic>,
        segments: &[Segment],
        left_out: &mut HashMap<usize, HashSet<usize>>,
        plan: &mut Plan,
    ) {
        let Some(known) = self.known.get(&behind.connection) else { return };
        let (index, member) = known.place;
        left_out.entry(index).or_default().insert(member);
        let mut next = next_of(known, behind, segments);
        next.retain(|topic, _| !unknown.contains(topic));
        if !next.is_empty() {
            let Behind { lag, waits, .. } = *behind;
            let recipient = known.recipient.clone();
            plan.stragglers.push(Straggler { recipient, next, lag, waits });
        }
    }

    /// Returns the subscriptions that the caller of the job does not know yet.
    fn unknown_subscriptions(
        &mut self,
        job: &Job,
        now: Timestamp,
    ) -> BTreeMap<ConnectionId, BTreeSet<Topic>> {
        let changed: HashMap<&ConnectionId, &Changed> =
            job.changed.iter().map(|it| (&it.connection, it)).collect();
        self.fresh.retain(|_, topics| {
            topics.retain(|_, since| *since + FRESH_FOR > now);
            !topics.is_empty()
        });
        let fresh = self.fresh.iter().map(|(id, topics)| {
            let known = changed.get(id).map(|it| &it.joined);
            let is_unknown = |topic: &Topic, since: &Timestamp| {
                known.and_then(|known| known.get(topic)).is_none_or(|known| known < since)
            };
            let unknown = topics.iter().filter(|(topic, since)| is_unknown(topic, since));
            (id.clone(), unknown.map(|(topic, _)| topic.clone()).collect())
        });
        fresh.filter(|(_, unknown): &(_, BTreeSet<Topic>)| !unknown.is_empty()).collect()
    }

    /// Takes the pending revocations, including those of tokens that have expired.
    fn take_revocations(&mut self, now: Timestamp) -> Revocations {
        let mut revocations = std::mem::take(&mut self.revocations);
        while let Some((at, _)) = self.expiries.first()
            && *at <= now
        {
            let Some((_, id)) = self.expiries.pop_first() else { break };
            if let Some(known) = self.known.get(&id) {
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
        let ids: Vec<ConnectionId> = self.known.keys().cloned().collect();
        for id in ids {
            let Some(known) = self.known.get(&id) else { continue };
            let topics = known.topics.iter().cloned().collect();
            let (recipient, principal) = (known.recipient.clone(), known.principal.clone());
            let allowed = self.allowed(&recipient, &principal, topics);
            self.move_to(&id, &allowed);
        }
    }

    /// Returns the topics that the rules permit, and notes what they do not permit.
    fn allowed(
        &mut self,
        recipient: &Recipient,
        principal: &Principal,
        topics: BTreeSet<Topic>,
    ) -> Arc<[Topic]> {
        if !self.rules.allows(principal, Right::Connect) {
            self.revocations.connections.push((recipient.clone(), ErrorCode::Forbidden));
            return Arc::default();
        }
        let (allowed, denied): (BTreeSet<Topic>, BTreeSet<Topic>) = topics
            .into_iter()
            .partition(|topic| self.rules.allows(principal, Right::Subscribe(topic)));
        if !denied.is_empty() {
            self.revocations.subscriptions.push((recipient.clone(), denied));
        }
        allowed.into_iter().collect()
    }

    /// Removes a connection.
    pub(super) fn remove(&mut self, id: &ConnectionId) {
        self.leave_group(id);
        self.fresh.remove(id);
        if let Some(known) = self.known.remove(id)
            && let Some(at) = known.token_expires_at
        {
            self.expiries.remove(&(at, id.clone()));
        }
    }

    fn update(&mut self, connection: &Connection, now: Timestamp) {
        let id = &connection.recipient.id;
        let before = self.known.get(id);
        let principal = match before {
            Some(known) if *known.principal == connection.principal => known.principal.clone(),
            _ => Arc::new(connection.principal.clone()),
        };
        self.remove(id);
        if let Some(at) = connection.token_expires_at {
            self.expiries.insert((at, id.clone()));
        }
        let mut live = BTreeSet::new();
        let mut fresh = BTreeMap::new();
        for (topic, subscription) in &connection.topics {
            match subscription {
                Subscription::Live { since, .. } => {
                    live.insert(topic.clone());
                    if *since + FRESH_FOR > now {
                        fresh.insert(topic.clone(), *since);
                    }
                }
                Subscription::Joining { .. } => {}
            }
        }
        if !fresh.is_empty() {
            self.fresh.insert(id.clone(), fresh);
        }
        let topics = self.allowed(&connection.recipient, &principal, live);
        let known = Known {
            recipient: connection.recipient.clone(),
            principal,
            token_expires_at: connection.token_expires_at,
            connected_at: connection.connected_at,
            version: connection.version,
            topics: Arc::default(),
            place: (usize::MAX, 0),
        };
        self.known.insert(id.clone(), known);
        self.move_to(id, &topics);
    }

    /// Moves a connection to the group with these topics.
    fn move_to(&mut self, id: &ConnectionId, topics: &Arc<[Topic]>) {
        self.leave_group(id);
        let Some(known) = self.known.get_mut(id) else { return };
        let index = if let Some(index) = self.by_topics.get(topics) {
            *index
        } else {
            let group = Group { topics: topics.clone(), members: Arc::default() };
            let index = if let Some(index) = self.empty.pop() {
                self.groups[index] = group;
                index
            } else {
                self.groups.push(group);
                self.groups.len() - 1
            };
            self.by_topics.insert(topics.clone(), index);
            for topic in topics.iter() {
                self.by_topic.entry(topic.clone()).or_default().insert(index);
            }
            index
        };
        let group = &mut self.groups[index];
        known.place = (index, group.members.len());
        known.topics = group.topics.clone();
        Arc::make_mut(&mut group.members).push(known.recipient.clone());
    }

    fn leave_group(&mut self, id: &ConnectionId) {
        let Some(known) = self.known.get_mut(id) else { return };
        let (index, member) = std::mem::replace(&mut known.place, (usize::MAX, 0));
        let Some(group) = self.groups.get_mut(index) else { return };
        let members = Arc::make_mut(&mut group.members);
        members.swap_remove(member);
        if let Some(moved) = members.get(member)
            && let Some(moved) = self.known.get_mut(&moved.id)
        {
            moved.place = (index, member);
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

/// Returns the next number of a connection that is behind, for each of its topics that the job is about.
fn next_of(known: &Known, behind: &Behind, segments: &[Segment]) -> BTreeMap<Topic, u64> {
    let is_subscribed = |topic: &Topic| known.topics.binary_search(topic).is_ok();
    let others = segments.iter().filter(|segment| segment.prev < segment.to);
    let mut next: BTreeMap<Topic, u64> = others
        .map(|segment| (segment.topic.clone(), segment.prev + 1))
        .chain(behind.next.iter().map(|(topic, next)| (topic.clone(), *next)))
        .collect();
    next.retain(|topic, _| is_subscribed(topic));
    next
}
