//! One run: builds everything, lets it run with faults, ends the faults, and checks what is left.

use std::{
    fmt::Write as _,
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws::tables::Tables;
use clap::Parser as _;
use domain::{
    clock::Clock,
    rules::SetText,
    shard::{Shard, Shards},
    topic::Topic,
};
use functions::{
    access::rules::{Overrides, Rules},
    app::App,
    push::Pusher,
};
use jiff::Timestamp;
use mad_turmoil::time::SimClocksGuard;
use parking_lot::Mutex;
use rand::{SeedableRng as _, rngs::StdRng};
use secrecy::SecretString;
use tokio::{
    task::JoinSet,
    time::{self, Instant},
};
use tracing::info;

use crate::{
    Outcome, check,
    client::{Client, Positions},
    database::{self, Database},
    environments::{self, Environments},
    expiry::Expired,
    gateway::{self, Gateway},
    link::Link,
    plan::{Fault, Plan},
    pollers::{Pollers, Surroundings, clock, tables},
    trace::Trace,
    upstream::{self, Upstream},
};

/// How long after the faults everything must be in order again.
const PEACE: Duration = Duration::from_secs(10);

/// Longest time until the deletes on a server that is polled are found. Its posts are requested again after one
/// minute, and four minutes after that, 20 of them every eight seconds.
const POLLED_WITHIN: Duration = Duration::from_mins(7);

/// How long before the end of the faults all pollers run again: a lease has to expire before another poller
/// leads.
const FAILOVER: Duration = Duration::from_secs(20);

/// How long before the end of the faults the upstreams work again.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(15);

/// How many times the posts of a second `push` may make in one. A leader may use those of two seconds. When
/// another family gets a leader of its own, that one has half of them, and the first notices later.
const MOST_POSTS: usize = 3;

/// Most memory of a run, in KiB.
const MOST_MEMORY: u64 = 128 * 1024;

/// How long after a right was withdrawn nothing forbidden is sent any more.
const WITHDRAWN_WITHIN: Duration = Duration::from_secs(5);

/// The topic that clients lose the right to.
const WITHDRAWN: &str = "mastodon/tag/busy";

const FAMILIES: &[&str] = &["coinbase", "mastodon"];

/// The number of shards, as the functions and the pollers have it, before and after a change.
const SHARDS: (&str, Shard) = ("2", 2);
const CHANGED_SHARDS: (&str, Shard) = ("3,2", 3);

/// The topics that the pollers may read only while they have subscribers.
const ON_DEMAND: [&str; 2] = ["coinbase/matches/B-USD", "mastodon/tag/quiet"];

const CLIENTS: usize = 9;

/// The topics, and the mean time between two of their events in milliseconds.
const TOPICS: [(&str, u64); 5] = [
    ("coinbase/matches/A-USD", 400),
    ("coinbase/matches/B-USD", 9_000),
    ("coinbase/ticker/A-USD", 700),
    ("mastodon/tag/busy", 500),
    ("mastodon/tag/quiet", 15_000),
];

/// What the clients use.
pub(crate) struct World {
    app: Mutex<Arc<App>>,
    /// All tables, without the limits of a role.
    tables: Tables,
    pub(crate) gateway: Gateway,
    pub(crate) trace: Trace,
    kills: Mutex<Kills>,
    clock: Clock,
    started: Instant,
}

/// How often functions are killed while they handle messages of clients.
struct Kills {
    share: f64,
    rng: fastrand::Rng,
}

impl World {
    /// Returns the functions as they are deployed at present.
    pub(crate) fn app(&self) -> Arc<App> {
        self.app.lock().clone()
    }

    /// Draws after which time the function that handles a message is killed, if it is.
    pub(crate) fn draw_kill(&self) -> Option<Duration> {
        let mut kills = self.kills.lock();
        if kills.rng.f64() >= kills.share {
            return None;
        }
        self.trace.count("lambda: killed functions of clients");
        Some(Duration::from_millis(kills.rng.u64(..100)))
    }

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

async fn simulate(seed: u64, without: &[Fault], trace: Option<&Path>) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let plan = Plan::draw(&mut rng, without);
    let trace = Trace::start(trace);
    trace.record("plan", format!("{plan:?}").as_bytes());
    let started = Instant::now();
    let database = Database::new(rng.fork(), trace.clone());
    let gateway = Gateway::new(rng.fork(), trace.clone());
    let tables_of = |program: Option<&'static str>, owner: &str| {
        let config = database.sdk_config(program, owner, Link::new());
        tables(config, &plan, clock(started, Duration::ZERO))
    };
    let tables_of_function = |name: &'static str| tables_of(Some(name), name);
    let tables = tables_of(None, "simulation");
    tables.create_missing().await.unwrap();

    let world = Arc::new(World {
        app: Mutex::new(Arc::new(app(tables_of_function("connection"), &gateway, SHARDS.0))),
        tables: tables.clone(),
        gateway: gateway.clone(),
        trace: trace.clone(),
        kills: Mutex::new(Kills { share: plan.killed_functions, rng: rng.fork() }),
        clock: clock(started, Duration::ZERO),
        started,
    });
    let tables_of_push = tables_of_function("push");
    let environments = Arc::new(environments(&mut rng, &world, tables_of_push, &plan));

    let topics = topics();
    let upstream = Upstream::new(clock(started, Duration::ZERO), trace.clone());
    let peace = started + plan.time;
    produce(&upstream, &topics, &plan, &mut rng, peace);

    let expired = Expired::default();
    let surroundings = Surroundings {
        started,
        database: database.clone(),
        environments: environments.clone(),
        upstream: upstream.clone(),
        trace: trace.clone(),
    };
    let families: &[&[&str]] = if plan.has(Fault::SplitFamilies) {
        &[&["coinbase"], &["mastodon"], &["coinbase"], &["mastodon"]]
    } else {
        &[FAMILIES, FAMILIES]
    };
    let mut pollers = Pollers::start(surroundings, plan.clone(), rng.fork(), SHARDS.1, families);

    tokio::spawn(log_seconds(started));
    let topics = [topics, vec![Topic::system_sources()]].concat();
    let positions = start_clients(&world, &topics, &plan, &mut rng, peace);
    database.set_faults(plan.database);
    gateway.set_faults(plan.gateway);
    environments.set_faults(plan.environments);
    tokio::spawn(disturb_upstream(upstream.clone(), plan.upstream, peace));
    if plan.has(Fault::Withdrawals) {
        tokio::spawn(withdraw(world.clone(), rng.fork(), plan.time));
    }
    if plan.has(Fault::UpstreamSilent) {
        tokio::spawn(silence(upstream.clone(), rng.fork(), peace, trace.clone()));
    }
    let mut deleting = JoinSet::new();
    if plan.has(Fault::ExpiredDeleted) {
        let (log, clock, rng) = (tables.log.clone(), world.clock.clone(), rng.fork());
        let (expired, topics, trace) = (expired.clone(), topics.clone(), trace.clone());
        let now = move || clock.now();
        deleting.spawn(expired.delete(log, database.clone(), topics, rng, now, trace));
    }
    let deploy = |shards: &str| {
        *world.app.lock() = Arc::new(app(tables_of_function("connection"), &gateway, shards));
    };
    disturb(&world, &plan, peace, &mut rng, &database, &mut pollers, deploy).await;
    database.set_faults(database::Faults::default());
    database.end_outage();
    gateway.set_faults(gateway::Faults::default());
    environments.set_faults(environments::Faults::default());
    world.kills.lock().share = 0.0;
    pollers.wake_all();

    let on_demand = if plan.has(Fault::OnDemand) { ON_DEMAND.as_slice() } else { &[] };
    let peace = peace.max(Instant::now());
    // What comes now must arrive. What came earlier may have had no subscribers.
    time::sleep_until(peace + PEACE / 2).await;
    for topic in on_demand {
        upstream.produce(&Topic::parse(topic).unwrap());
    }
    time::sleep_until(peace + PEACE).await;
    if plan.has(Fault::Polled) {
        check::wait_for_deletes(&tables, &upstream, &topics, POLLED_WITHIN).await;
        // The clients must learn of the last of them.
        time::sleep(PEACE).await;
    }
    let positions = positions.lock().clone();
    deleting.shutdown().await;
    check::check(&tables, &upstream, &positions, &topics, on_demand, &expired, &trace).await;
    if let Some(used) = peak_memory().filter(|used| *used > MOST_MEMORY) {
        trace.violation(&format!("the run took {used} KiB of memory"));
    }
    trace.end()
}

/// Returns the most memory that the process has had, in KiB. Only Linux tells.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    peak.trim().trim_end_matches(" kB").parse().ok()
}

/// Disturbs the database and the pollers until the end of the faults. `deploy` replaces the functions by ones
/// with another setting of shards.
async fn disturb(
    world: &World,
    plan: &Plan,
    peace: Instant,
    rng: &mut fastrand::Rng,
    database: &Database,
    pollers: &mut Pollers,
    deploy: impl Fn(&str),
) {
    let mut steps = Vec::new();
    if plan.has(Fault::ShardChange) {
        steps = vec![ShardChange::Functions, ShardChange::Pollers];
        rng.shuffle(&mut steps);
    }
    while Instant::now() < peace {
        time::sleep(Duration::from_millis(rng.u64(1_000..12_000))).await;
        if plan.has(Fault::Outages) && rng.f64() < 0.4 {
            database.begin_outage(plan.longest_outage.mul_f64(rng.f64()));
        }
        if Instant::now() + FAILOVER > peace {
            continue;
        }
        if plan.has(Fault::Kills) && rng.f64() < 0.4 {
            pollers.kill_any();
        } else if plan.has(Fault::Freezes) && rng.f64() < 0.4 {
            let most = peace.duration_since(Instant::now()).saturating_sub(FAILOVER);
            let time = plan.longest_freeze.mul_f64(rng.f64());
            pollers.freeze_any(time.min(most));
        }
        match steps.pop() {
            Some(ShardChange::Functions) => {
                world.trace.count("shards: changed for the functions");
                deploy(CHANGED_SHARDS.0);
            }
            Some(ShardChange::Pollers) => {
                world.trace.count("shards: changed for the pollers");
                pollers.change_shards(CHANGED_SHARDS.1);
            }
            None => {}
        }
    }
}

/// Disturbs the upstreams. A source waits longer after each attempt to connect that fails, so their faults end
/// before the others.
async fn disturb_upstream(upstream: Upstream, faults: upstream::Faults, peace: Instant) {
    upstream.set_faults(faults);
    time::sleep_until(peace - RECONNECTED_WITHIN).await;
    upstream.set_faults(upstream::Faults::default());
}

/// A step of a change of the number of shards. They are taken in either order.
enum ShardChange {
    Functions,
    Pollers,
}

/// Makes the upstreams silent for a while, again and again.
async fn silence(upstream: Upstream, mut rng: fastrand::Rng, peace: Instant, trace: Trace) {
    let most = Duration::from_secs(10);
    loop {
        time::sleep(most.mul_f64(rng.f64())).await;
        let until = Instant::now() + most.mul_f64(rng.f64());
        if until > peace {
            return;
        }
        trace.count("upstreams: silences");
        upstream.set_silent(true);
        time::sleep_until(until).await;
        upstream.set_silent(false);
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
fn environments(
    rng: &mut fastrand::Rng,
    world: &World,
    tables: Tables,
    plan: &Plan,
) -> Environments {
    let most_posts = MOST_POSTS * plan.posts_per_second as usize;
    let gateway = Arc::new(world.gateway.with_most_posts(most_posts));
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

/// Returns the functions with a setting of shards.
fn app(tables: Tables, gateway: &Gateway, shards: &str) -> App {
    let mut options = FunctionOptions::try_parse_from(["functions"]).unwrap().options;
    options.shards = Shards::parse(shards).unwrap();
    let preset = options.preset(SetText::open()).unwrap();
    let secret = SecretString::from("a secret of the simulation, which is long enough");
    App::new(tables, Arc::new(gateway.clone()), options, preset, secret)
}
