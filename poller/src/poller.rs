//! The whole poller: combines the sources, numbering and the lanes.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use aws::{
    control::{Control, Lease},
    tables::Tables,
};
use domain::{
    chain::Chain, clock::Clock, provenance::Provenance, push::Push, shard::Shard, source::State,
    topic::Topic,
};
use futures_util::future;
use jiff::Timestamp;
use tokio::{sync::watch, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    config,
    families::Family,
    feed::Feed,
    health::{LOOK_EVERY, Look},
    interest::Interest,
    lanes::Lanes,
    leadership::Leadership,
    leases,
    numbering::{self, Numbering},
    source::Source,
    states::States,
    wanted::Wanted,
};

/// Longest time to send the last frames when the poller stops.
const GRACE: Duration = Duration::from_secs(10);

/// The parts of a poller.
#[derive(Clone)]
pub struct Poller {
    /// The tables.
    pub tables: Tables,
    /// Invokes `push`.
    pub push: Arc<dyn Push>,
    /// Whether the upstreams are real.
    pub provenance: Provenance,
    /// Most messages per second that are posted to connections.
    pub posts_per_second: u32,
    /// All shards that can have connections.
    pub shards: std::ops::Range<Shard>,
    /// The name of this poller in leases.
    pub owner: Arc<str>,
    /// The sources, by family.
    pub families: Vec<Family>,
    /// The clock.
    pub clock: Clock,
    /// Where the poller publishes its health.
    pub looks: watch::Sender<Option<Look>>,
}

/// Ensures that the tables contain either live or simulated data, never both.
///
/// # Errors
///
/// When they contain data of the other kind, or cannot be read.
pub async fn claim(tables: &Tables, ours: Provenance) -> anyhow::Result<()> {
    let theirs = tables.control.claim_provenance(ours).await?;
    if theirs != ours {
        bail!(
            "the tables contain {} data, but the sources are {}; use other tables",
            name(theirs),
            name(ours)
        );
    }
    Ok(())
}

impl Poller {
    /// Reads the upstreams until `shutdown`, and then sends the last frames.
    ///
    /// # Errors
    ///
    /// When the tables contain data of the other kind, or cannot be read at the start.
    pub async fn run(
        self,
        options: &config::Options,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        self.tables.check().await?;
        claim(&self.tables, self.provenance).await?;
        let control = self.tables.control.clone();
        let leadership = Leadership::default();
        let numbering = Numbering::new(
            self.tables.log.clone(),
            control.clone(),
            leadership.clone(),
            numbering::Options { flush: options.flush(), memory_bytes: options.memory_bytes },
        );
        let posts = self.posts_per_second;
        let lanes = Lanes::new(self.shards.clone(), leadership.clone(), posts, self.clock.clone());
        let states = States::new(self.provenance, control.clone(), numbering.clone());
        let recorded = options
            .coinbase_record
            .union(&options.mastodon_record)
            .cloned()
            .chain([Topic::system_sources()])
            .collect();
        let mut interest =
            Interest::new(&self.tables, self.shards, recorded, leadership, self.clock);

        let sources = TaskTracker::new();
        let mut all_wanted = Vec::new();
        for (family, members) in self.families {
            let wanted = interest.wanted_of(&family);
            all_wanted.push(wanted.clone());
            let leader = Leader {
                tables: self.tables.clone(),
                numbering: numbering.clone(),
                states: states.clone(),
                wanted,
                members,
            };
            sources.spawn(leader.run(family, self.owner.clone(), shutdown.clone()));
        }
        sources.close();

        let health = Health {
            control: control.clone(),
            numbering: numbering.clone(),
            states,
            lanes: lanes.clone(),
            wanted: all_wanted,
        };
        tokio::spawn(shutdown.clone().run_until_cancelled_owned(health.publish(self.looks)));

        // Each stage stops after the one before it, so that no event is lost.
        let sources_done = CancellationToken::new();
        let frames_done = CancellationToken::new();
        let following = tokio::spawn(interest.run(lanes.clone(), shutdown.clone()));
        let framing = {
            let numbering = numbering.clone();
            let lanes = lanes.clone();
            let done = sources_done.clone();
            tokio::spawn(async move { numbering.run(lanes, done).await })
        };
        let pushing = {
            let (push, control, done) = (self.push, control.clone(), frames_done.clone());
            tokio::spawn(async move { lanes.run(push, control, done).await })
        };
        shutdown.cancelled().await;
        let stop = async {
            sources.wait().await;
            sources_done.cancel();
            let _ = framing.await;
            frames_done.cancel();
            let _ = pushing.await;
            // The next leader must not send before this one has sent and noted its last events.
            release(&control, &numbering).await;
            let _ = following.await;
        };
        if time::timeout(GRACE, stop).await.is_err() {
            warn!("the poller did not stop in time; the frames that were not sent are in the log");
        }
        Ok(())
    }
}

/// Runs the sources of one family whenever this poller is its leader.
struct Leader {
    tables: Tables,
    numbering: Numbering,
    states: States,
    wanted: watch::Receiver<Arc<Wanted>>,
    members: Vec<Arc<dyn Source>>,
}

impl Leader {
    async fn run(self, family: String, owner: Arc<str>, shutdown: CancellationToken) {
        let control = self.tables.control.clone();
        let lead = |lease: Lease, term: CancellationToken| self.lead(lease, term);
        leases::hold(control, self.numbering.clone(), &family, owner, shutdown, lead).await;
    }

    async fn lead(&self, lease: Lease, term: CancellationToken) {
        let running = self.members.iter().map(|source| {
            let name = source.name();
            self.states.report(name, State::Connecting, String::new());
            let feed = Feed::new(
                name,
                lease.epoch,
                self.wanted.clone(),
                self.numbering.clone(),
                self.states.clone(),
                self.tables.log.clone(),
                self.tables.control.clone(),
            );
            source.run(feed, term.clone())
        });
        future::join_all(running.collect::<Vec<_>>()).await;
    }
}

/// The parts that determine the health of a poller.
struct Health {
    control: Control,
    numbering: Numbering,
    states: States,
    lanes: Lanes,
    wanted: Vec<watch::Receiver<Arc<Wanted>>>,
}

impl Health {
    /// Publishes the health periodically.
    async fn publish(self, looks: watch::Sender<Option<Look>>) {
        let mut timer = time::interval(LOOK_EVERY);
        loop {
            timer.tick().await;
            let database = self.control.provenance().await.is_ok();
            let leads = self.numbering.leases().into_iter().map(|lease| lease.source);
            looks.send_replace(Some(Look {
                leads: leads.collect(),
                database,
                sources_down: self.states.down(),
                wanted: self.wanted.iter().any(|wanted| !wanted.borrow().is_empty()),
                ..self.lanes.counters().look(Timestamp::now())
            }));
        }
    }
}

/// Releases all leases, so that a standby need not wait until they expire.
async fn release(control: &Control, numbering: &Numbering) {
    for lease in numbering.leases() {
        if let Err(error) = control.release(&lease).await {
            warn!(family = lease.source, error = %Chain(&error), "could not release the lease; it will expire");
        }
    }
}

fn name(provenance: Provenance) -> &'static str {
    match provenance {
        Provenance::Live => "live",
        Provenance::Simulated => "simulated",
    }
}
