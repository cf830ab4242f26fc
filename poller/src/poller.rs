//! The whole poller: combines the sources, numbering and the lanes.

use std::{sync::Arc, time::Duration};

use anyhow::bail;
use aws::{
    control::{Control, leases::Lease},
    tables::Tables,
};
use domain::{
    chain::Chain, clock::Clock, provenance::Provenance, push::Push, shard::Shard, source::State,
    topic::Topic,
};
use futures_util::future::{self, BoxFuture};
use tokio::{sync::watch, task::JoinSet, time};
use tokio_util::sync::CancellationToken;
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
    share,
    source::Source,
    states::States,
    wanted::Wanted,
};

/// Longest time to send the last frames when the poller stops.
const GRACE: Duration = Duration::from_secs(10);

/// Longest time in which a database that works responds to a look at the poller's health.
const DATABASE_RESPONDS_IN: Duration = Duration::from_secs(2);

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
    /// The shards of its setting. It also follows those in which functions open connections.
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

/// Ensures that the tables contain either live or simulated data, never both, and that the log has an id.
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
    tables.control.claim_log_id().await?;
    Ok(())
}

impl Poller {
    /// Reads the upstreams until `shutdown`, and then sends the last frames.
    ///
    /// # Errors
    ///
    /// When the tables contain data of the other kind, or cannot be read at the start, or a part of the
    /// poller has panicked.
    // The future is boxed here so that the poller is compiled once, and not again in each program that runs it.
    pub fn run(
        self,
        options: &config::Options,
        shutdown: CancellationToken,
    ) -> BoxFuture<'_, anyhow::Result<()>> {
        Box::pin(self.run_parts(options, shutdown))
    }

    async fn run_parts(
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
            self.clock.clone(),
            numbering::Options { flush: options.flush(), memory_bytes: options.memory_bytes },
        );
        let posts = self.posts_per_second;
        let lanes = Lanes::new(self.shards.clone(), leadership.clone(), posts, self.clock.clone());
        let states =
            States::new(self.provenance, control.clone(), numbering.clone(), self.clock.clone());
        let (leads, owner, clock) = (leadership.clone(), self.owner.clone(), self.clock.clone());
        let sharing = share::keep(control.clone(), leads, lanes.clone(), owner, clock);
        let recorded = options
            .coinbase_record
            .union(&options.mastodon_record)
            .cloned()
            .chain([Topic::system_sources()])
            .collect();
        let mut interest =
            Interest::new(&self.tables, self.shards, recorded, leadership, self.clock.clone());

        let mut leaders = JoinSet::new();
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
            let clock = self.clock.clone();
            leaders.spawn(leader.run(family, self.owner.clone(), clock, shutdown.clone()));
        }

        let health = Health {
            control: control.clone(),
            numbering: numbering.clone(),
            states,
            lanes: lanes.clone(),
            wanted: all_wanted,
            clock: self.clock,
        };
        let publishing = health.publish(self.looks.clone());
        let mut looking = tokio::spawn(shutdown.clone().run_until_cancelled_owned(publishing));
        let mut sharing = tokio::spawn(shutdown.clone().run_until_cancelled_owned(sharing));

        // Each stage stops after the one before it, so that no event is lost.
        let sources_done = CancellationToken::new();
        let frames_done = CancellationToken::new();
        let mut following = tokio::spawn(interest.run(lanes.clone(), shutdown.clone()));
        let mut framing = {
            let numbering = numbering.clone();
            let lanes = lanes.clone();
            let done = sources_done.clone();
            tokio::spawn(async move { numbering.run(lanes, done).await })
        };
        let mut pushing = {
            let (push, control, done) = (self.push, control.clone(), frames_done.clone());
            tokio::spawn(async move { lanes.run(push, control, done).await })
        };
        let (part, ended) = tokio::select! {
            biased;
            () = shutdown.cancelled() => ("the poller", Ok(())),
            Some(ended) = leaders.join_next() => ("a leader", ended),
            ended = &mut framing => ("numbering", ended),
            ended = &mut pushing => ("the lanes", ended),
            ended = &mut following => ("interest", ended),
            ended = &mut looking => ("the health check", ended.map(|_| ())),
            ended = &mut sharing => ("the share of the posts", ended.map(|_| ())),
        };
        if ended.is_err() || !shutdown.is_cancelled() {
            // A poller without one of its parts would look alive and do nothing.
            self.looks.send_replace(None);
            let reason = ended.err().map_or_else(String::new, |error| format!(": {error}"));
            bail!("{part} stopped unexpectedly{reason}");
        }
        let stop = async {
            while leaders.join_next().await.is_some() {}
            sources_done.cancel();
            let _ = framing.await;
            frames_done.cancel();
            let _ = pushing.await;
            // The next leader must not send before this one has sent and noted its last events.
            release(&control, &numbering).await;
            if !following.is_finished() {
                let _ = following.await;
            }
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
    async fn run(self, family: String, owner: Arc<str>, clock: Clock, shutdown: CancellationToken) {
        let control = self.tables.control.clone();
        let lead = |lease: Lease, term: CancellationToken| self.lead(lease, term);
        leases::hold(control, self.numbering.clone(), &family, owner, clock, shutdown, lead).await;
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
    clock: Clock,
}

impl Health {
    /// Publishes the health periodically.
    async fn publish(self, looks: watch::Sender<Option<Look>>) {
        let mut timer = time::interval(LOOK_EVERY);
        loop {
            timer.tick().await;
            let response = time::timeout(DATABASE_RESPONDS_IN, self.control.provenance()).await;
            let database = matches!(response, Ok(Ok(_)));
            let leads = self.numbering.leases().into_iter().map(|lease| lease.source);
            looks.send_replace(Some(Look {
                leads: leads.collect(),
                database,
                sources_down: self.states.down(),
                wanted: self.wanted.iter().any(|wanted| !wanted.borrow().is_empty()),
                ..self.lanes.counters().look(self.clock.now())
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

#[cfg(test)]
mod tests {
    use aws::clients::{Clients, TableOptions};
    use clap::Parser as _;
    use domain::push::{Job, PushError, Report};
    use dynamo::{Engine, Storage};
    use jiff::Timestamp;

    use super::*;
    use crate::feed::Feed;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        poller: config::Options,
    }

    struct NoPush;

    impl Push for NoPush {
        fn push(&self, _: Job) -> BoxFuture<'_, Result<Report, PushError>> {
            Box::pin(future::pending())
        }
    }

    struct Panics;

    impl Source for Panics {
        fn name(&self) -> &'static str {
            "panics"
        }

        fn run(&self, _: Feed, _: CancellationToken) -> BoxFuture<'_, ()> {
            Box::pin(async { panic!("a bug") })
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_panic_of_a_part_stops_the_poller_with_an_error() {
        let engine = Engine::inline(Storage::open(None).expect("a database"));
        let options =
            TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
        let tables = Clients::from_config(engine.sdk_config()).tables(&options);
        tables.create_missing().await.expect("tables");
        let looks = watch::Sender::new(None);
        let poller = Poller {
            tables,
            push: Arc::new(NoPush),
            provenance: Provenance::Live,
            posts_per_second: 1,
            shards: 0..1,
            owner: "a".into(),
            families: vec![("coinbase".to_owned(), vec![Arc::new(Panics)])],
            clock: Clock::new(Timestamp::now),
            looks: looks.clone(),
        };
        let options = Cli::parse_from(["poller"]).poller;
        let running = poller.run(&options, CancellationToken::new());
        let result = time::timeout(Duration::from_mins(1), running).await.expect("it stops");
        let error = result.expect_err("a part has panicked").to_string();
        assert!(error.contains("a leader stopped unexpectedly"), "{error}");
        assert_eq!(*looks.borrow(), None, "it is not healthy");
    }
}
