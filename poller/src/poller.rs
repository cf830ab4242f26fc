//! The poller whole: sources, numbering and lanes, put together.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use aws::{
    connections::Shard,
    control::{Origin, State},
    error::Chain,
    push::Push,
    tables::Tables,
};
use domain::topic::Topic;
use futures_util::future;
use jiff::Timestamp;
use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    config,
    feed::Feed,
    health::{LOOK_EVERY, Look},
    interest::Interest,
    lanes::Lanes,
    leases,
    numbering::{self, Numbering},
    source::Source,
    states::States,
};

/// How long the last frames may take when the poller stops.
const GRACE: Duration = Duration::from_secs(10);

/// The parts a poller is made of.
pub struct Poller {
    /// The tables.
    pub tables: Tables,
    /// The way to `push`.
    pub push: Arc<dyn Push>,
    /// Whether the upstreams are real.
    pub origin: Origin,
    /// Every shard that can have connections.
    pub shards: std::ops::Range<Shard>,
    /// What this poller is called in leases.
    pub owner: Arc<str>,
    /// The sources, by family: all sources of a family have one leader.
    pub families: Vec<(String, Vec<Arc<dyn Source>>)>,
    /// Where the poller shows how it is doing.
    pub looks: watch::Sender<Option<Look>>,
}

/// Sees to it that the tables hold data of one origin only.
///
/// # Errors
///
/// When they hold data of the other, or cannot be read.
pub async fn claim(tables: &Tables, origin: Origin) -> anyhow::Result<()> {
    let there = tables.control.claim_origin(origin).await?;
    if there != origin {
        let (there, ours) = (name(there), name(origin));
        bail!("the tables hold {there} data, and the sources are {ours}: use other tables");
    }
    Ok(())
}

impl Poller {
    /// Reads the upstreams until `shutdown`, and then brings the last frames on their way.
    ///
    /// # Errors
    ///
    /// When the tables hold data of the other origin, or cannot be read at the start.
    pub async fn run(
        self,
        options: &config::Options,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        self.tables.check().await?;
        claim(&self.tables, self.origin).await?;
        let numbering = Numbering::new(
            self.tables.clone(),
            numbering::Options { flush: options.flush(), memory_bytes: options.memory_bytes },
        );
        let lanes = Lanes::new(self.shards.clone());
        let states = States::new(self.origin, numbering.clone());
        let recorded = options.coinbase_record.union(&options.mastodon_record).cloned();
        let recorded = recorded.chain([Topic::system_sources()]).collect();
        let mut interest = Interest::new(&self.tables.connections, self.shards, recorded);

        let sources = TaskTracker::new();
        let mut all_wanted = Vec::new();
        for (family, members) in self.families {
            let wanted = interest.wanted_of(&family);
            all_wanted.push(wanted.clone());
            let (numbering, owner) = (numbering.clone(), self.owner.clone());
            let (states, shutdown) = (states.clone(), shutdown.clone());
            sources.spawn(async move {
                let lead = |term: CancellationToken| {
                    let running = members.iter().map(|source| {
                        let name = source.name();
                        states.report(name, State::Connecting, String::new());
                        let feed =
                            Feed::new(name, wanted.clone(), numbering.clone(), states.clone());
                        source.run(feed, term.clone())
                    });
                    let running = future::join_all(running.collect::<Vec<_>>());
                    async move {
                        running.await;
                    }
                };
                leases::hold(numbering.clone(), &family, owner, shutdown, lead).await;
            });
        }
        sources.close();

        let looking = {
            let (lanes, numbering) = (lanes.clone(), numbering.clone());
            async move {
                let mut timer = time::interval(LOOK_EVERY);
                loop {
                    timer.tick().await;
                    let database = numbering.tables().control.origin().await.is_ok();
                    let leads = numbering.held().into_iter().map(|lease| lease.source);
                    self.looks.send_replace(Some(Look {
                        leads: leads.collect(),
                        database,
                        sources_down: states.down(),
                        wanted: all_wanted.iter().any(|wanted| !wanted.borrow().is_empty()),
                        ..lanes.counters().look(Timestamp::now())
                    }));
                }
            }
        };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(looking));

        // Each stage stops after the one before it, so that nothing read is left behind.
        let (sources_done, frames_done) = (CancellationToken::new(), CancellationToken::new());
        let following =
            tokio::spawn(interest.run(lanes.clone(), numbering.clone(), shutdown.clone()));
        let framing = {
            let (numbering, lanes, done) = (numbering.clone(), lanes.clone(), sources_done.clone());
            tokio::spawn(async move { numbering.run(lanes, done).await })
        };
        let pushing = {
            let (push, done) = (self.push, frames_done.clone());
            tokio::spawn(async move { lanes.run(push, done).await })
        };
        shutdown.cancelled().await;
        let stop = async {
            sources.wait().await;
            sources_done.cancel();
            let _ = framing.await;
            numbering.release().await;
            frames_done.cancel();
            let _ = pushing.await;
            let _ = following.await;
        };
        if time::timeout(GRACE, stop).await.is_err() {
            warn!("the poller did not finish in time; what was not sent is in the log");
        }
        Ok(())
    }
}

impl Numbering {
    /// Gives all leases back, so that a standby need not wait for them to lapse.
    async fn release(&self) {
        for lease in self.held() {
            if let Err(error) = self.tables().control.release(&lease).await {
                warn!(family = lease.source, error = %Chain(&error), "lease not released");
            }
        }
    }
}

fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::Live => "live",
        Origin::Simulated => "simulated",
    }
}
