//! One run: builds everything, lets it run with faults, ends the faults, and checks what is left.

use std::{
    fmt::Write as _,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use clap::Parser as _;
use domain::{clock::Clock, provenance::Provenance, rules::SetText, topic::Topic};
use functions::{
    access::rules::{Overrides, Rules},
    app::App,
    push::Pusher,
};
use jiff::Timestamp;
use mad_turmoil::time::SimClocksGuard;
use poller::{families::Family, poller::Poller, source::Source};
use rand::{SeedableRng as _, rngs::StdRng};
use secrecy::SecretString;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    Outcome, check,
    client::{Client, Positions},
    database::{self, Database},
    environments::{self, Environments, Invoker},
    gateway::{self, Gateway},
    link::Link,
    plan::{Fault, Plan},
    trace::Trace,
    upstream::{SimulatedSource, Upstream},
};

/// How long after the faults everything must be in order again.
const PEACE: Duration = Duration::from_secs(10);

/// How long before the end of the faults all pollers run again: a lease has to expire before another poller
/// leads.
const FAILOVER: Duration = Duration::from_secs(20);

/// How long after a right was withdrawn nothing forbidden is sent any more.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(5);

/// The topic that clients lose the right to.
const WITHDRAWN: &str = "mastodon/tag/busy";

const FAMILIES: &[&str] = &["coinbase", "mastodon"];

const SHARDS: u16 = 2;

const CLIENTS: usize = 12;

/// The topics, and the mean time between two of their events in milliseconds.
const TOPICS: [(&str, u64); 5] = [
    ("coinbase/matches/A-USD", 60),
    ("coinbase/matches/B-USD", 9_000),
    ("coinbase/ticker/A-USD", 300),
    ("mastodon/tag/busy", 500),
    ("mastodon/tag/quiet", 15_000),
];

/// What the clients use.
pub(crate) struct World {
    pub(crate) app: Arc<App>,
    /// All tables, without the limits of a role.
    tables: Tables,
    pub(crate) gateway: Gateway,
    pub(crate) trace: Trace,
    clock: Clock,
    started: Instant,
}

impl World {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

#[derive(clap::Parser)]
struct FunctionOptions {
    #[command(flatten)]
    options: functions::settings::Options,
}

#[derive(clap::Parser)]
struct PollerOptions {
    #[command(flatten)]
    options: poller::config::Options,
}

/// Runs one seed. The process can run no other one after it.
pub(crate) fn run(seed: u64, without: &[Fault], trace: Option<&Path>) -> Outcome {
    // From here on, whatever takes random numbers or the time from the system takes the simulated ones.
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    let _clocks = SimClocksGuard::init();
    fastrand::seed(seed);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(simulate(seed, without, trace))
}

/// Returns a clock that shows the simulated time, ahead by `skew`.
fn clock(started: Instant, skew: Duration) -> Clock {
    let epoch: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    Clock::new(move || epoch + started.elapsed() + skew)
}

async fn simulate(seed: u64, without: &[Fault], trace: Option<&Path>) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng, without);
    let trace = Trace::start(trace);
    trace.record("plan", format!("{plan:?}").as_bytes());
    let started = Instant::now();
    let database = Database::new(rng.fork(), trace.clone());
    let gateway = Gateway::new(rng.fork(), trace.clone());
    let options = TableOptions { table_prefix: "headwater-".to_owned(), retention: plan.retention };
    let tables_of = |program: Option<&'static str>, owner: &str, link: Link, skew: Duration| {
        let clients = Clients::from_config(database.sdk_config(program, owner, link));
        clients.tables_with_clock(&options, clock(started, skew))
    };
    let tables_of_function =
        |name: &'static str| tables_of(Some(name), name, Link::new(), Duration::ZERO);
    let tables = tables_of(None, "simulation", Link::new(), Duration::ZERO);
    tables.create_missing().await.unwrap();

    let world = Arc::new(World {
        app: Arc::new(app(tables_of_function("connection"), &gateway)),
        tables: tables.clone(),
        gateway: gateway.clone(),
        trace: trace.clone(),
        clock: clock(started, Duration::ZERO),
        started,
    });
    let environments = Arc::new(environments(&mut rng, &world, tables_of_function("push")));

    let topics = topics();
    let upstream = Upstream::new(&topics);
    let peace = started + plan.time;
    produce(&upstream, &topics, &plan, &mut rng, peace);

    let mut started_pollers = 0;
    let mut start_poller = |families: &'static [&'static str], rng: &mut fastrand::Rng| {
        started_pollers += 1;
        let link = Link::new();
        let owner = format!("poller-{started_pollers}");
        let skew = plan.skew.mul_f64(rng.f64());
        let tables = tables_of(Some("poller"), &owner, link.clone(), skew);
        let poller = Poller {
            families: sources(families, &topics, &upstream, &tables),
            tables,
            push: Arc::new(Invoker { environments: environments.clone(), link: link.clone() }),
            provenance: Provenance::Simulated,
            posts_per_second: 5_000,
            shards: 0..SHARDS,
            owner: owner.into(),
            looks: watch::Sender::new(None),
            clock: clock(started, skew),
        };
        tokio::spawn(async move {
            let options = PollerOptions::try_parse_from(["poller"]).unwrap().options;
            loop {
                // The container is started again when it ends because of the database.
                let _ = poller.clone().run(&options, CancellationToken::new()).await;
                time::sleep(Duration::from_secs(1)).await;
            }
        });
        RunningPoller { families, link }
    };
    let kinds: &[&[&str]] = if plan.has(Fault::SplitFamilies) {
        &[&["coinbase"], &["mastodon"], &["coinbase"], &["mastodon"]]
    } else {
        &[FAMILIES, FAMILIES]
    };
    let mut pollers = Vec::new();
    for families in kinds {
        pollers.push(start_poller(families, &mut rng));
    }

    tokio::spawn(log_seconds(started));
    let positions = start_clients(&world, &topics, &plan, &mut rng, peace);
    database.set_faults(plan.database);
    gateway.set_faults(plan.gateway);
    environments.set_faults(plan.environments);
    if plan.has(Fault::Withdrawals) {
        tokio::spawn(withdraw(world.clone(), rng.fork(), plan.time));
    }
    disturb(&plan, peace, &mut rng, &database, &trace, &mut pollers, start_poller).await;
    database.set_faults(database::Faults::default());
    database.end_outage();
    gateway.set_faults(gateway::Faults::default());
    environments.set_faults(environments::Faults::default());
    for poller in &pollers {
        poller.link.freeze(Duration::ZERO);
    }

    time::sleep_until(peace.max(Instant::now()) + PEACE).await;
    let positions = positions.lock().clone();
    check::check(&tables, &upstream, &positions, &topics, &trace).await;
    trace.end()
}

/// Disturbs the database and the pollers until the end of the faults.
async fn disturb(
    plan: &Plan,
    peace: Instant,
    rng: &mut fastrand::Rng,
    database: &Database,
    trace: &Trace,
    pollers: &mut Vec<RunningPoller>,
    mut start_poller: impl FnMut(&'static [&'static str], &mut fastrand::Rng) -> RunningPoller,
) {
    while Instant::now() < peace {
        time::sleep(Duration::from_millis(rng.u64(1_000..12_000))).await;
        if plan.has(Fault::Outages) && rng.f64() < 0.4 {
            database.begin_outage(plan.longest_outage.mul_f64(rng.f64()));
        }
        if Instant::now() + FAILOVER > peace {
            continue;
        }
        let index = rng.usize(..pollers.len());
        if plan.has(Fault::Kills) && rng.f64() < 0.4 {
            trace.count("pollers: killed");
            let RunningPoller { families, link } = pollers.remove(index);
            link.kill();
            pollers.push(start_poller(families, rng));
        } else if plan.has(Fault::Freezes) && rng.f64() < 0.4 {
            trace.count("pollers: frozen");
            let most = peace.duration_since(Instant::now()).saturating_sub(FAILOVER);
            let time = Duration::from_millis(rng.u64(500..25_000));
            pollers[index].link.freeze(time.min(most));
        }
    }
}

/// Withdraws the right to a topic, and gives it back in time for the end.
async fn withdraw(world: Arc<World>, mut rng: fastrand::Rng, time: Duration) {
    let topic = Topic::parse(WITHDRAWN).unwrap();
    let started = Instant::now();
    time::sleep((time / 3).mul_f64(rng.f64())).await;
    let mut forbidden = SetText::open();
    write!(forbidden.policies, "forbid (principal, action, resource == Topic::\"{WITHDRAWN}\");")
        .unwrap();
    put_rules(&world, &forbidden).await;
    world.trace.count("rules: withdrawn rights");
    world.gateway.forbid(Some((topic, Instant::now() + WITHDRAWN_WITHIN)));
    time::sleep_until(started + (time / 3).mul_f64(1.0 + rng.f64())).await;
    world.gateway.forbid(None);
    put_rules(&world, &SetText::open()).await;
}

async fn put_rules(world: &World, set: &SetText) {
    while world.tables.control.put_rules(set, "simulation", world.now()).await.is_err() {
        time::sleep(Duration::from_millis(100)).await;
    }
}

/// The environments of `push`. Some share their rules, as if they had read them at the same time.
fn environments(rng: &mut fastrand::Rng, world: &World, tables: Tables) -> Environments {
    let gateway = Arc::new(world.gateway.clone());
    let clock = world.clock.clone();
    let options = FunctionOptions::try_parse_from(["functions"]).unwrap().options;
    let rules: Vec<Arc<Rules>> = (0..3)
        .map(|_| {
            let preset = options.preset(SetText::open()).unwrap();
            Arc::new(Rules::new(tables.control.clone(), preset, Overrides::default()))
        })
        .collect();
    let started = AtomicUsize::new(0);
    let start = move || {
        let index = started.fetch_add(1, Ordering::Relaxed) % rules.len();
        Pusher::new(&tables, gateway.clone(), rules[index].clone(), clock.clone())
    };
    Environments::new(rng.fork(), Box::new(start), world.trace.clone())
}

/// Marks the seconds in the log.
async fn log_seconds(started: Instant) {
    loop {
        info!(seconds = started.elapsed().as_secs(), "the simulation runs");
        time::sleep(Duration::from_secs(1)).await;
    }
}

/// Produces events on all topics until `peace`.
fn produce(
    upstream: &Upstream,
    topics: &[Topic],
    plan: &Plan,
    rng: &mut fastrand::Rng,
    peace: Instant,
) {
    for (topic, (_, every)) in topics.iter().zip(TOPICS) {
        let upstream = upstream.clone();
        let topic = topic.clone();
        let mut rng = rng.fork();
        let deletes = if topic.source() == "mastodon" { plan.deletes } else { 0.0 };
        tokio::spawn(async move {
            loop {
                time::sleep(Duration::from_millis(rng.u64(1..every * 2))).await;
                if Instant::now() > peace {
                    return;
                }
                if rng.f64() < deletes {
                    upstream.delete(&topic, &mut rng);
                } else {
                    upstream.produce(&topic);
                }
            }
        });
    }
}

/// Starts the clients. Returns what they know.
fn start_clients(
    world: &Arc<World>,
    topics: &[Topic],
    plan: &Plan,
    rng: &mut fastrand::Rng,
    peace: Instant,
) -> Positions {
    let positions = Positions::default();
    for number in 0..CLIENTS {
        let mut rng = rng.fork();
        let mut chosen = topics.to_vec();
        rng.shuffle(&mut chosen);
        chosen.truncate(rng.usize(1..=3));
        let client = Client {
            name: format!("client{number}"),
            topics: chosen,
            rng,
            positions: positions.clone(),
            log: None,
            is_slow: plan.has(Fault::SlowClients),
        };
        tokio::spawn(client.run(world.clone(), peace));
    }
    positions
}

fn topics() -> Vec<Topic> {
    TOPICS.iter().map(|(name, _)| Topic::parse(name).unwrap()).collect()
}

/// A poller, and the way to stop it.
struct RunningPoller {
    families: &'static [&'static str],
    link: Link,
}

fn sources(
    families: &[&'static str],
    topics: &[Topic],
    upstream: &Upstream,
    tables: &Tables,
) -> Vec<Family> {
    let family = |family: &&'static str| {
        let topics = topics.iter().filter(|topic| topic.source() == *family).cloned().collect();
        let (upstream, log) = (upstream.clone(), tables.log.clone());
        let source = SimulatedSource { family, topics, upstream, log };
        ((*family).to_owned(), vec![Arc::new(source) as Arc<dyn Source>])
    };
    families.iter().map(family).collect()
}

fn app(tables: Tables, gateway: &Gateway) -> App {
    let mut options = FunctionOptions::try_parse_from(["functions"]).unwrap().options;
    options.shards = domain::shard::Shards::parse(&SHARDS.to_string()).unwrap();
    let preset = options.preset(SetText::open()).unwrap();
    let secret = SecretString::from("a secret of the simulation, which is long enough");
    App::new(tables, Arc::new(gateway.clone()), options, preset, secret)
}
