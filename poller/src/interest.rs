//! Interest: who wants which topics, as the connections say, and so what the sources fetch. And what
//! `push` has to look after even when nothing is sent: rules that change, and tokens that expire.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use aws::{
    connections::{Connection, Connections, Shard},
    error::Chain,
    reader::{Refresh, ShardReader},
};
use domain::{connection::ConnectionId, topic::Topic};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{feed::Wanted, lanes::Lanes, numbering::Numbering};

/// How often the index is asked for changes, where nothing in this process tells of them.
const EVERY: Duration = Duration::from_millis(250);

/// Shortest time between two looks, so that a crowd that connects is read in a few.
const AT_MOST_EVERY: Duration = Duration::from_millis(10);

/// How long a topic is still fetched after the last who wanted it.
const LINGER: Duration = Duration::from_mins(1);

/// How often is asked whether the rules have changed, and `push` told of tokens that have expired.
const LOOK_AFTER: Duration = Duration::from_secs(1);

/// Follows the connections, tells the lanes who joined, and the sources what is wanted.
pub struct Interest {
    connections: Connections,
    shards: Vec<ShardInterest>,
    recorded: Wanted,
    /// Topics that somebody wanted, and when that was seen last.
    wanted: BTreeMap<Topic, Instant>,
    families: HashMap<String, watch::Sender<Arc<Wanted>>>,
}

struct ShardInterest {
    shard: Shard,
    reader: ShardReader,
    connections: HashMap<ConnectionId, Vec<Topic>>,
    /// How many connections want each topic.
    counts: BTreeMap<Topic, usize>,
    /// By connection, when its token expires.
    expires_at: HashMap<ConnectionId, Timestamp>,
    expiries: BTreeSet<(Timestamp, ConnectionId)>,
}

impl Interest {
    /// Nobody wants anything yet, but what is `recorded` in any case.
    pub fn new(
        connections: &Connections,
        shards: impl IntoIterator<Item = Shard>,
        recorded: Wanted,
    ) -> Self {
        let shards = shards.into_iter().map(|shard| ShardInterest {
            shard,
            reader: ShardReader::new(connections.clone(), shard),
            connections: HashMap::new(),
            counts: BTreeMap::new(),
            expires_at: HashMap::new(),
            expiries: BTreeSet::new(),
        });
        Self {
            connections: connections.clone(),
            shards: shards.collect(),
            recorded,
            wanted: BTreeMap::new(),
            families: HashMap::new(),
        }
    }

    /// The topics wanted of a family of sources, such as `coinbase`.
    pub fn wanted_of(&mut self, family: &str) -> watch::Receiver<Arc<Wanted>> {
        self.families.entry(family.to_owned()).or_default().subscribe()
    }

    /// Follows the connections until `shutdown`.
    pub async fn run(mut self, lanes: Lanes, numbering: Numbering, shutdown: CancellationToken) {
        let mut writes = self.connections.writes();
        let mut rules = 0;
        let mut looked_after: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            writes.mark_unchanged();
            for shard in &mut self.shards {
                match shard.refresh().await {
                    Ok(Some(joined)) => {
                        let topics = shard.counts.keys().cloned().collect();
                        lanes.want(shard.shard, topics, joined);
                    }
                    Ok(None) => {}
                    Err(error) => {
                        let shard = shard.shard;
                        warn!(shard, error = %Chain(&error), "connections could not be read");
                    }
                }
            }
            self.publish(&numbering).await;
            if looked_after.is_none_or(|at| at.elapsed() >= LOOK_AFTER) {
                looked_after = Some(Instant::now());
                match numbering.tables().control.current_rules().await {
                    Ok(Some(current)) if current.version != rules => {
                        rules = current.version;
                        lanes.obey(rules);
                    }
                    Ok(_) => {}
                    Err(error) => {
                        warn!(error = %Chain(&error), "whether the rules have changed is not known");
                    }
                }
                let now = Timestamp::now();
                for shard in &self.shards {
                    // Again and again, until `push` has ended the connection.
                    if shard.expiries.first().is_some_and(|(at, _)| *at <= now) {
                        lanes.poke(shard.shard);
                    }
                }
            }
            let changed = async {
                time::sleep(AT_MOST_EVERY).await;
                let _ = time::timeout(EVERY, writes.changed()).await;
            };
            shutdown.run_until_cancelled(changed).await;
        }
    }

    async fn publish(&mut self, numbering: &Numbering) {
        let now = Instant::now();
        for topic in self.shards.iter().flat_map(|shard| shard.counts.keys()) {
            match self.wanted.get_mut(topic) {
                Some(seen) => *seen = now,
                None => {
                    self.wanted.insert(topic.clone(), now);
                }
            }
        }
        self.wanted.retain(|_, seen| now.duration_since(*seen) < LINGER);
        for (family, sender) in &self.families {
            let of_family = |topic: &&Topic| topic.source() == family;
            let wanted: Wanted =
                self.wanted.keys().chain(&self.recorded).filter(of_family).cloned().collect();
            let wanted = Arc::new(wanted);
            let changed = sender.send_if_modified(|before| {
                let changed = *before != wanted;
                *before = wanted.clone();
                changed
            });
            if changed
                && let Err(error) = numbering.tables().control.put_wanted(family, &wanted).await
            {
                warn!(family, error = %Chain(&error), "what is wanted could not be stored");
            }
        }
    }
}

impl ShardInterest {
    /// Learns what changed, and returns the connections whose subscriptions are new; `None` where
    /// nothing changed.
    async fn refresh(&mut self) -> Result<Option<Vec<ConnectionId>>, aws::error::StoreError> {
        let mut joined = Vec::new();
        match self.reader.refresh(Timestamp::now()).await? {
            Refresh::All(all) => {
                let before = std::mem::take(&mut self.connections);
                self.counts.clear();
                self.expires_at.clear();
                self.expiries.clear();
                for connection in &all {
                    let new = before.get(&connection.recipient.id).is_none_or(|topics| {
                        connection.topics.keys().any(|topic| !topics.contains(topic))
                    });
                    if new && !connection.topics.is_empty() {
                        joined.push(connection.recipient.id.clone());
                    }
                    self.set(connection);
                }
            }
            Refresh::Changed(changed) if changed.is_empty() => return Ok(None),
            Refresh::Changed(changed) => {
                for connection in &changed {
                    self.set(connection);
                    if !connection.gone && !connection.topics.is_empty() {
                        joined.push(connection.recipient.id.clone());
                    }
                }
            }
        }
        Ok(Some(joined))
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
        let topics: BTreeSet<Topic> = connection.topics.keys().cloned().collect();
        for topic in &topics {
            *self.counts.entry(topic.clone()).or_default() += 1;
        }
        self.connections.insert(id.clone(), topics.into_iter().collect());
    }
}
