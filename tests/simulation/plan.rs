//! The plan of a run: which faults it has, and how often. It follows from the seed.

use std::time::Duration;

use clap::ValueEnum;

use crate::{database, environments, gateway, upstream};

/// A kind of fault. Any of them can be left out of a run, to find out which one it takes to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Fault {
    /// The index of the connections shows changes late.
    IndexLag,
    /// The database throttles requests.
    DatabaseThrottled,
    /// The database does what it is asked, and answers with an error.
    DatabaseResponseLost,
    /// The database is away for a while.
    Outages,
    /// The gateway delivers a message, and answers with an error.
    PostFailedAfterDelivery,
    /// The gateway rejects posts, and does not deliver them.
    PostRejected,
    /// The gateway throttles posts.
    PostThrottled,
    /// Posts hang.
    PostHung,
    /// `push` is throttled.
    PushThrottled,
    /// The response of `push` is lost.
    PushResponseLost,
    /// An environment of `push` is killed during an invocation.
    PushKilled,
    /// The response of `push` is lost at once, while the function goes on.
    PushAbandoned,
    /// A job is handled twice at the same time.
    PushTwice,
    /// Invocations start new environments.
    PushCold,
    /// Functions that handle messages of clients are killed while they do.
    ConnectionKilled,
    /// Pollers are killed.
    Kills,
    /// Pollers stop for a while, and go on.
    Freezes,
    /// Outages and freezes last up to a minute.
    LongFaults,
    /// The clocks of pollers are wrong.
    Skew,
    /// Each source family has a poller of its own.
    SplitFamilies,
    /// The pollers read some topics only while they have subscribers.
    OnDemand,
    /// Clients do not accept messages for a while.
    SlowClients,
    /// Events expire after 40 seconds. Outages and freezes are short then: if no poller can append for longer
    /// than events are kept, the end of a topic is not known exactly.
    ShortRetention,
    /// The database deletes expired events, some sooner and some later.
    ExpiredDeleted,
    /// The upstreams are silent for a while, and then send everything at once.
    UpstreamSilent,
    /// Connections to the upstreams are dropped.
    UpstreamDropped,
    /// Requests and handshakes fail.
    UpstreamFailed,
    /// The exchange skips trades.
    UpstreamSkips,
    /// The REST interface of the exchange does not have some trades.
    UpstreamForgets,
    /// The Mastodon server is polled: it has no stream for readers without a token.
    Polled,
    /// The upstreams send messages twice.
    UpstreamDoubles,
    /// The upstreams send messages in another order.
    UpstreamReorders,
    /// The upstreams send invalid messages.
    UpstreamGarbage,
    /// The number of shards changes, for the functions first or for the pollers first.
    ShardChange,
    /// The account allows few posts a second.
    FewPosts,
    /// Posts are deleted.
    Deletes,
    /// The right to read some topics is withdrawn for a while.
    Withdrawals,
}

/// The longest outages and freezes, and the longest ones with [`Fault::LongFaults`].
const LONGEST: Duration = Duration::from_secs(25);
const LONGEST_OF_LONG: Duration = Duration::from_mins(1);

/// What happens in a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How long the faults last.
    pub(crate) time: Duration,
    pub(crate) database: database::Faults,
    pub(crate) gateway: gateway::Faults,
    pub(crate) environments: environments::Faults,
    pub(crate) upstream: upstream::Faults,
    /// The other kinds of faults that happen.
    faults: Vec<Fault>,
    /// The longest outage of the database.
    pub(crate) longest_outage: Duration,
    /// The longest time for which a poller is frozen.
    pub(crate) longest_freeze: Duration,
    /// Most that the clock of a poller is ahead.
    pub(crate) skew: Duration,
    /// How long events are kept.
    pub(crate) retention: Duration,
    /// Share of the events of a topic with posts that delete one.
    pub(crate) deletes: f64,
    /// Share of the messages of clients whose function is killed while it handles them.
    pub(crate) killed_functions: f64,
    /// Most posts a second that a poller may make.
    pub(crate) posts_per_second: u32,
}

impl Plan {
    /// Draws a plan. Leaving out a fault does not change the others.
    pub(crate) fn draw(rng: &mut fastrand::Rng, without: &[Fault]) -> Self {
        let mut time = Duration::from_millis(rng.u64(25_000..45_000));
        let few_posts = rng.u32(100..300);
        // Each kind of fault happens in some of the runs only, so that a failing seed points to its cause.
        let mut share = |fault: Fault, of_the_runs: f64, most: f64| {
            let drawn = (rng.f64() < of_the_runs, rng.f64() * most);
            if drawn.0 && !without.contains(&fault) { drawn.1 } else { 0.0 }
        };
        let retention = match share(Fault::ShortRetention, 0.3, 1.0) {
            0.0 => Duration::from_hours(24),
            _ => Duration::from_secs(40),
        };
        let longest = match share(Fault::LongFaults, 0.15, 1.0) {
            0.0 => LONGEST,
            _ => LONGEST_OF_LONG,
        };
        let others = [
            (Fault::Outages, 0.4),
            (Fault::Kills, 0.4),
            (Fault::Freezes, 0.4),
            (Fault::SplitFamilies, 0.3),
            (Fault::OnDemand, 0.3),
            (Fault::SlowClients, 0.5),
            (Fault::Withdrawals, 0.4),
            (Fault::ExpiredDeleted, 0.6),
            (Fault::UpstreamSilent, 0.4),
            (Fault::ShardChange, 0.4),
            (Fault::Polled, 0.1),
        ];
        let drawn = others.into_iter().filter(|(fault, runs)| share(*fault, *runs, 1.0) > 0.0);
        let mut faults: Vec<Fault> = drawn.map(|(fault, _)| fault).collect();
        // A polled server reports no deletes. They are found minutes later, when such events have expired.
        faults.retain(|fault| *fault != Fault::Polled || retention > Duration::from_hours(1));
        let (longest_outage, longest_freeze) =
            (longest.min(retention / 8), longest.min(retention * 5 / 8));
        let lasts = |fault, most| if faults.contains(&fault) { most } else { Duration::ZERO };
        let longest_fault =
            lasts(Fault::Outages, longest_outage).max(lasts(Fault::Freezes, longest_freeze));
        if longest_fault > LONGEST {
            time += longest_fault;
        }
        Self {
            time,
            faults,
            database: database::Faults {
                index_lag: Duration::from_secs(5).mul_f64(share(Fault::IndexLag, 0.6, 1.0)),
                throttled: share(Fault::DatabaseThrottled, 0.4, 0.1),
                lost_responses: share(Fault::DatabaseResponseLost, 0.4, 0.05),
            },
            gateway: gateway::Faults {
                failed_after_delivery: share(Fault::PostFailedAfterDelivery, 0.4, 0.05),
                rejected: share(Fault::PostRejected, 0.4, 0.05),
                throttled: share(Fault::PostThrottled, 0.4, 0.2),
                hung: share(Fault::PostHung, 0.3, 0.01),
            },
            environments: environments::Faults {
                throttled: share(Fault::PushThrottled, 0.4, 0.1),
                lost_responses: share(Fault::PushResponseLost, 0.4, 0.02),
                killed: share(Fault::PushKilled, 0.4, 0.02),
                abandoned: share(Fault::PushAbandoned, 0.4, 0.01),
                twice: share(Fault::PushTwice, 0.4, 0.02),
                cold: share(Fault::PushCold, 0.7, 0.5),
            },
            upstream: upstream::Faults {
                dropped_within: match share(Fault::UpstreamDropped, 0.4, 18.0) {
                    0.0 => Duration::ZERO,
                    // Sources wait longer and longer if no connection lasts.
                    seconds => Duration::from_secs_f64(2.0 + seconds),
                },
                failed: share(Fault::UpstreamFailed, 0.4, 0.1),
                skipped: share(Fault::UpstreamSkips, 0.4, 0.2),
                forgotten: share(Fault::UpstreamForgets, 0.4, 0.5),
                doubled: share(Fault::UpstreamDoubles, 0.4, 0.1),
                reordered: share(Fault::UpstreamReorders, 0.4, 0.1),
                garbage: share(Fault::UpstreamGarbage, 0.4, 0.1),
            },
            skew: Duration::from_secs(3).mul_f64(share(Fault::Skew, 0.6, 1.0)),
            longest_outage,
            longest_freeze,
            retention,
            deletes: share(Fault::Deletes, 0.5, 0.3),
            killed_functions: share(Fault::ConnectionKilled, 0.4, 0.2),
            posts_per_second: match share(Fault::FewPosts, 0.3, 1.0) {
                0.0 => 5_000,
                _ => few_posts,
            },
        }
    }

    /// Returns whether a kind of fault happens.
    pub(crate) fn has(&self, fault: Fault) -> bool {
        self.faults.contains(&fault)
    }
}
