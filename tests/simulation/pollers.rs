//! The running pollers: they are started, killed, frozen, and replaced by others.

use std::{
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use clap::Parser as _;
use domain::{clock::Clock, provenance::Provenance, shard::Shard};
use jiff::Timestamp;
use poller::{
    config::Options as PollerOptions,
    families::{Family, families},
    outside::Outside,
    poller::Poller,
};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    database::Database,
    environments::{Environments, Invoker},
    link::Link,
    plan::{Fault, Plan},
    trace::Trace,
    upstream::{SimulatedNetwork, Upstream},
};

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    options: PollerOptions,
}

/// The settings of the pollers.
const SETTINGS: [&str; 4] = [
    "poller",
    "--coinbase-url=wss://exchange.invalid",
    "--coinbase-rest-url=https://exchange.invalid",
    "--mastodon-servers=https://social.invalid",
];

/// The server has a stream for readers with a token. The others poll it.
const TOKEN: &str = "--mastodon-tokens=simulated";

/// Which topics the pollers read even without subscribers: all of them, or all but those on demand.
const RECORD_ALL: [&str; 2] = [
    "--coinbase-record=matches/A-USD,matches/B-USD,ticker/A-USD",
    "--mastodon-record=tag/busy,tag/quiet",
];
const RECORD_SOME: [&str; 2] =
    ["--coinbase-record=matches/A-USD,ticker/A-USD", "--mastodon-record=tag/busy"];

/// What the pollers have in common.
pub(crate) struct Surroundings {
    pub(crate) started: Instant,
    pub(crate) database: Database,
    pub(crate) environments: Arc<Environments>,
    pub(crate) upstream: Upstream,
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
        let Surroundings { started, database, environments, upstream, .. } = &self.surroundings;
        let clock = clock(*started, skew);
        let config = database.sdk_config(Some("poller"), &owner, link.clone());
        let tables = tables(config, &self.plan, clock.clone());
        let network = SimulatedNetwork {
            upstream: upstream.clone(),
            link: link.clone(),
            owner: owner.clone(),
            failures: AtomicU32::new(0),
        };
        let outside = Outside {
            network: Arc::new(network),
            clock: clock.clone(),
            streaming_hosts: Arc::new([]),
        };
        let record = if self.plan.has(Fault::OnDemand) { RECORD_SOME } else { RECORD_ALL };
        if self.plan.has(Fault::Polled) {
            self.surroundings.trace.count("pollers: that poll the server");
        }
        let token = (!self.plan.has(Fault::Polled)).then_some(TOKEN);
        let settings = SETTINGS.into_iter().chain(record).chain(token);
        let options = Options::try_parse_from(settings).unwrap().options;
        let poller = Poller {
            families: sources(families, &options, &self.plan, &outside),
            tables,
            push: Arc::new(Invoker {
                environments: environments.clone(),
                database: database.clone(),
                link: link.clone(),
                owner: owner.clone(),
            }),
            provenance: Provenance::Simulated,
            posts_per_second: self.plan.posts_per_second,
            shards: 0..self.shards,
            owner: owner.into(),
            looks: watch::Sender::new(None),
            clock,
        };
        tokio::spawn(async move {
            loop {
                // The container is started again when it ends because of the database.
                let _ = poller.clone().run(&options, CancellationToken::new()).await;
                time::sleep(Duration::from_secs(1)).await;
            }
        });
        self.running.push(Running { families, link });
    }
}

/// Returns the sources of some families.
fn sources(names: &[&str], options: &PollerOptions, plan: &Plan, outside: &Outside) -> Vec<Family> {
    let mut families = families(options, plan.retention, outside).unwrap();
    families.retain(|(name, _)| names.contains(&name.as_str()));
    families
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
