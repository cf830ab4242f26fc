//! The running pollers: they are started, killed, frozen, and replaced by others.

use std::{sync::Arc, time::Duration};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use clap::Parser as _;
use domain::{clock::Clock, provenance::Provenance, shard::Shard, topic::Topic};
use jiff::Timestamp;
use poller::{families::Family, poller::Poller, source::Source};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    database::Database,
    environments::{Environments, Invoker},
    expiry::Expired,
    link::Link,
    plan::Plan,
    trace::Trace,
    upstream::{SimulatedSource, Upstream},
};

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    options: poller::config::Options,
}

/// What the pollers have in common.
pub(crate) struct Surroundings {
    pub(crate) started: Instant,
    pub(crate) database: Database,
    pub(crate) environments: Arc<Environments>,
    pub(crate) upstream: Upstream,
    pub(crate) expired: Expired,
    pub(crate) topics: Vec<Topic>,
    pub(crate) trace: Trace,
}

/// All pollers that run.
pub(crate) struct Pollers {
    surroundings: Surroundings,
    plan: Plan,
    rng: fastrand::Rng,
    shards: Shard,
    /// How many were started.
    count: usize,
    running: Vec<Running>,
}

/// A poller, and the way to stop it.
struct Running {
    families: &'static [&'static str],
    link: Link,
}

impl Pollers {
    /// Starts a poller for each of these sets of families.
    pub(crate) fn start(
        surroundings: Surroundings,
        plan: Plan,
        rng: fastrand::Rng,
        shards: Shard,
        families: &[&'static [&'static str]],
    ) -> Self {
        let mut pollers = Self { surroundings, plan, rng, shards, count: 0, running: Vec::new() };
        for families in families {
            pollers.add(families);
        }
        pollers
    }

    /// Kills one of the pollers, and starts another one.
    pub(crate) fn kill_any(&mut self) {
        self.surroundings.trace.count("pollers: killed");
        let index = self.rng.usize(..self.running.len());
        self.replace(index);
    }

    /// Freezes one of the pollers.
    pub(crate) fn freeze_any(&mut self, time: Duration) {
        self.surroundings.trace.count("pollers: frozen");
        let index = self.rng.usize(..self.running.len());
        self.running[index].link.freeze(time);
    }

    /// Wakes the pollers that are frozen.
    pub(crate) fn wake_all(&self) {
        for poller in &self.running {
            poller.link.freeze(Duration::ZERO);
        }
    }

    /// Replaces all pollers by ones with another number of shards.
    pub(crate) fn change_shards(&mut self, shards: Shard) {
        self.shards = shards;
        for _ in 0..self.running.len() {
            self.replace(0);
        }
    }

    fn replace(&mut self, index: usize) {
        let Running { families, link } = self.running.remove(index);
        link.kill();
        self.add(families);
    }

    fn add(&mut self, families: &'static [&'static str]) {
        self.count += 1;
        let link = Link::new();
        let owner = format!("poller-{}", self.count);
        let skew = self.plan.skew.mul_f64(self.rng.f64());
        let Surroundings { started, database, environments, .. } = &self.surroundings;
        let clock = clock(*started, skew);
        let config = database.sdk_config(Some("poller"), &owner, link.clone());
        let tables = tables(config, &self.plan, clock.clone());
        let poller = Poller {
            families: self.sources(families, &tables),
            tables,
            push: Arc::new(Invoker { environments: environments.clone(), link: link.clone() }),
            provenance: Provenance::Simulated,
            posts_per_second: self.plan.posts_per_second,
            shards: 0..self.shards,
            owner: owner.into(),
            looks: watch::Sender::new(None),
            clock,
        };
        tokio::spawn(async move {
            let options = Options::try_parse_from(["poller"]).unwrap().options;
            loop {
                // The container is started again when it ends because of the database.
                let _ = poller.clone().run(&options, CancellationToken::new()).await;
                time::sleep(Duration::from_secs(1)).await;
            }
        });
        self.running.push(Running { families, link });
    }

    fn sources(&self, families: &[&'static str], tables: &Tables) -> Vec<Family> {
        let Surroundings { topics, upstream, expired, .. } = &self.surroundings;
        let family = |family: &&'static str| {
            let topics = topics.iter().filter(|topic| topic.source() == *family);
            let source = SimulatedSource {
                family,
                topics: topics.cloned().collect(),
                upstream: upstream.clone(),
                log: tables.log.clone(),
                expired: expired.clone(),
            };
            ((*family).to_owned(), vec![Arc::new(source) as Arc<dyn Source>])
        };
        families.iter().map(family).collect()
    }
}

/// Returns a clock that shows the simulated time, ahead by `skew`.
pub(crate) fn clock(started: Instant, skew: Duration) -> Clock {
    let epoch: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    Clock::new(move || epoch + started.elapsed() + skew)
}

/// Returns the tables, as a process with this configuration and clock sees them.
pub(crate) fn tables(config: aws_config::SdkConfig, plan: &Plan, clock: Clock) -> Tables {
    let options = TableOptions { table_prefix: "headwater-".to_owned(), retention: plan.retention };
    Clients::from_config(config).tables_with_clock(&options, clock)
}
