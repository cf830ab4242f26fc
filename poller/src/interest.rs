//! Interest: reads from the connections which topics have subscribers, so that the sources fetch only
//! those. It also makes `push` check its connections when rules change or tokens expire.

mod shard;
mod topics;

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws::{connections::Connections, control::Control, reader::ShardReader};
use domain::{chain::Chain, shard::Shard};
use jiff::Timestamp;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use self::{shard::Subscribers, topics::RecentTopics};
use crate::{lanes::Lanes, wanted::Wanted};

/// How often the index is read for changes, if no other part of this process reports them.
const EVERY: Duration = Duration::from_millis(250);

/// Shortest time between two reads, so that one read covers many new connections.
const AT_MOST_EVERY: Duration = Duration::from_millis(10);

/// How often the version of the rules is read, and `push` is invoked to check expired tokens.
const CHECK_EVERY: Duration = Duration::from_secs(1);

/// Follows the connections. Announces new ones to the lanes, and wanted topics to the sources.
pub struct Interest {
    connections: Connections,
    control: Control,
    shards: Vec<(ShardReader, Subscribers)>,
    recorded: Wanted,
    topics: RecentTopics,
    families: HashMap<String, watch::Sender<Arc<Wanted>>>,
}

impl Interest {
    /// Starts without subscribers. The `recorded` topics are always wanted.
    pub fn new(
        connections: &Connections,
        control: Control,
        shards: impl IntoIterator<Item = Shard>,
        recorded: Wanted,
    ) -> Self {
        let shards = shards
            .into_iter()
            .map(|shard| (ShardReader::new(connections.clone(), shard), Subscribers::new(shard)));
        Self {
            connections: connections.clone(),
            control,
            shards: shards.collect(),
            recorded,
            topics: RecentTopics::default(),
            families: HashMap::new(),
        }
    }

    /// Returns the wanted topics of a family of sources, such as `coinbase`.
    pub fn wanted_of(&mut self, family: &str) -> watch::Receiver<Arc<Wanted>> {
        self.families.entry(family.to_owned()).or_default().subscribe()
    }

    /// Follows the connections until `shutdown`.
    pub async fn run(mut self, lanes: Lanes, shutdown: CancellationToken) {
        let mut writes = self.connections.writes();
        let mut rules = 0;
        let mut checked_at: Option<Instant> = None;
        while !shutdown.is_cancelled() {
            writes.mark_unchanged();
            self.refresh(&lanes).await;
            self.publish().await;
            if checked_at.is_none_or(|at| at.elapsed() >= CHECK_EVERY) {
                checked_at = Some(Instant::now());
                rules = self.follow_rules(rules, &lanes).await;
                for (_, subscribers) in &self.shards {
                    // Repeated until `push` has closed the connection.
                    if subscribers.has_expired(Timestamp::now()) {
                        lanes.check(subscribers.shard());
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

    /// Reads what changed in each shard.
    async fn refresh(&mut self, lanes: &Lanes) {
        for (reader, subscribers) in &mut self.shards {
            let shard = subscribers.shard();
            match reader.refresh(Timestamp::now()).await {
                Ok(refresh) => {
                    if let Some(joined) = subscribers.apply(refresh) {
                        lanes.set_wanted(shard, subscribers.topics().cloned().collect(), joined);
                    }
                }
                Err(error) => {
                    warn!(shard, error = %Chain(&error), "could not read the connections; keeping the previous view");
                }
            }
        }
    }

    /// Announces the wanted topics of each family, and stores those that changed.
    async fn publish(&mut self) {
        let subscribed = self.shards.iter().flat_map(|(_, subscribers)| subscribers.topics());
        self.topics.see(subscribed, Instant::now());
        for (family, sender) in &self.families {
            let topics = self.topics.iter().chain(&self.recorded);
            let wanted: Wanted = topics.filter(|it| it.source() == family).cloned().collect();
            let wanted = Arc::new(wanted);
            let changed = sender.send_if_modified(|before| {
                let changed = *before != wanted;
                *before = wanted.clone();
                changed
            });
            if changed && let Err(error) = self.control.put_wanted(family, &wanted).await {
                warn!(family, error = %Chain(&error), "could not store the wanted topics");
            }
        }
    }

    /// Passes a new version of the rules to the lanes. Returns the version in force.
    async fn follow_rules(&self, version: u64, lanes: &Lanes) -> u64 {
        match self.control.current_rules().await {
            Ok(Some(current)) if current.version != version => {
                lanes.set_rules(current.version);
                current.version
            }
            Ok(_) => version,
            Err(error) => {
                warn!(error = %Chain(&error), "could not read the version of the rules; keeping the previous one");
                version
            }
        }
    }
}
