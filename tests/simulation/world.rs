//! One run: builds everything, lets it run with faults, ends the faults, and checks what is left.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use clap::Parser as _;
use domain::{clock::Clock, provenance::Provenance, rules::SetText, topic::Topic};
use functions::{app::App, push::Pusher};
use jiff::Timestamp;
use parking_lot::Mutex;
use poller::{families::Family, poller::Poller, source::Source};
use secrecy::SecretString;
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{
    check,
    client::{Client, Position, Positions},
    database::{self, Database},
    environments::{self, Environments, Invoker},
    gateway::{self, Gateway},
    link::Link,
    upstream::{SimulatedSource, Upstream},
};

/// How long the faults last.
const FAULTS_FOR: Duration = Duration::from_mins(1);

/// How long after the faults everything must be in order again.
const PEACE: Duration = Duration::from_secs(10);

/// How long before the end of the faults all pollers run again: a lease has to expire before another poller
/// leads.
const FAILOVER: Duration = Duration::from_secs(20);

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

/// What a run found.
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    /// How often each fault happened.
    pub(crate) counts: BTreeMap<&'static str, u64>,
    pub(crate) trace: Vec<String>,
}

/// What the clients use.
pub(crate) struct World {
    pub(crate) app: Arc<App>,
    pub(crate) gateway: Gateway,
    clock: Clock,
    started: Instant,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl World {
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn count(&self, name: &'static str) {
        *self.counts.lock().entry(name).or_default() += 1;
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

/// Runs one seed.
pub(crate) fn run(seed: u64, is_traced: bool) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    fastrand::seed(seed);
    runtime.block_on(simulate(seed, is_traced))
}

/// A clock that shows the simulated time, with an error.
fn clock(started: Instant, skew: Duration) -> Clock {
    let epoch: Timestamp = "2026-11-22T10:00:00Z".parse().unwrap();
    Clock::new(move || epoch + started.elapsed() + skew)
}

fn table_options() -> TableOptions {
    TableOptions { table_prefix: "sim-".to_owned(), retention: Duration::from_hours(24) }
}

async fn simulate(seed: u64, is_traced: bool) -> Outcome {
    let mut rng = fastrand::Rng::with_seed(seed);
    let started = Instant::now();
    let database = Database::new(rng.fork());
    let gateway = Gateway::new(rng.fork());
    let tables_of = |link: Link, skew: Duration| -> Tables {
        let clients = Clients::from_config(database.sdk_config(link));
        clients.tables_with_clock(&table_options(), clock(started, skew))
    };
    let tables = tables_of(Link::new(), Duration::ZERO);
    tables.create_missing().await.unwrap();

    let app = Arc::new(app(tables.clone(), &gateway));
    let world = Arc::new(World {
        app: app.clone(),
        gateway: gateway.clone(),
        clock: clock(started, Duration::ZERO),
        started,
        counts: Mutex::default(),
    });
    let environments = {
        let tables = tables.clone();
        let gateway = Arc::new(gateway.clone());
        let now = clock(started, Duration::ZERO);
        let start = move || Pusher::new(&tables, gateway.clone(), app.rules.clone(), now.clone());
        Arc::new(Environments::new(rng.fork(), Box::new(start)))
    };

    let topics = topics();
    let upstream = Upstream::new(&topics);
    let peace = started + FAULTS_FOR;
    produce(&upstream, &topics, &mut rng, peace);

    let mut pollers = Pollers { started: 0, links: Vec::new() };
    let start_poller = |pollers: &mut Pollers, rng: &mut fastrand::Rng| {
        let link = Link::new();
        let skew = Duration::from_millis(rng.u64(..2_000));
        pollers.started += 1;
        let poller = Poller {
            tables: tables_of(link.clone(), skew),
            push: Arc::new(Invoker { environments: environments.clone(), link: link.clone() }),
            provenance: Provenance::Simulated,
            posts_per_second: 5_000,
            shards: 0..SHARDS,
            owner: format!("poller-{}", pollers.started).into(),
            families: families(&topics, &upstream),
            looks: watch::Sender::new(None),
            clock: clock(started, skew),
        };
        pollers.links.push(link);
        tokio::spawn(async move {
            let options = PollerOptions::try_parse_from(["poller"]).unwrap().options;
            loop {
                // The container is started again when it ends because of the database.
                let _ = poller.clone().run(&options, CancellationToken::new()).await;
                time::sleep(Duration::from_secs(1)).await;
            }
        });
    };
    start_poller(&mut pollers, &mut rng);
    start_poller(&mut pollers, &mut rng);

    if is_traced {
        tokio::spawn(log_seconds(started));
    }
    let positions = start_clients(&world, &topics, &mut rng, peace);
    draw_faults(&mut rng, &database, &gateway, &environments);
    let has_outages = rng.f64() < 0.4;
    let has_kills = rng.f64() < 0.4;
    let has_freezes = rng.f64() < 0.4;
    while Instant::now() < peace {
        time::sleep(Duration::from_millis(rng.u64(1_000..12_000))).await;
        if has_outages && rng.f64() < 0.4 {
            database.begin_outage(Duration::from_millis(rng.u64(500..25_000)));
        }
        if Instant::now() + FAILOVER > peace {
            continue;
        }
        let index = rng.usize(..pollers.links.len());
        if has_kills && rng.f64() < 0.4 {
            world.count("pollers: killed");
            pollers.links.remove(index).kill();
            start_poller(&mut pollers, &mut rng);
        } else if has_freezes && rng.f64() < 0.4 {
            world.count("pollers: frozen");
            let most = peace.duration_since(Instant::now()).saturating_sub(FAILOVER);
            let time = Duration::from_millis(rng.u64(500..25_000));
            pollers.links[index].freeze(time.min(most));
        }
    }
    database.set_faults(database::Faults::default());
    database.end_outage();
    gateway.set_faults(gateway::Faults::default());
    environments.set_faults(environments::Faults::default());
    for link in &pollers.links {
        link.freeze(Duration::ZERO);
    }

    time::sleep_until(peace.max(Instant::now()) + PEACE).await;
    let counts = [database.counts(), gateway.counts(), environments.counts()];
    let counts = counts.into_iter().chain([world.counts.lock().clone()]).flatten().collect();
    let positions = positions.lock().clone();
    let violations = check::check(&tables, &upstream, &topics, &positions, world.now()).await;
    let trace = if is_traced { trace(&positions) } else { Vec::new() };
    Outcome { violations, counts, trace }
}

/// Returns what each client has.
fn trace(positions: &BTreeMap<(String, Topic), Position>) -> Vec<String> {
    positions.iter().map(|((client, topic), it)| format!("{client} {topic} {it:?}")).collect()
}

/// Marks the seconds in the log.
async fn log_seconds(started: Instant) {
    loop {
        info!(seconds = started.elapsed().as_secs(), "the simulation runs");
        time::sleep(Duration::from_secs(1)).await;
    }
}

/// Produces events on all topics until `peace`.
fn produce(upstream: &Upstream, topics: &[Topic], rng: &mut fastrand::Rng, peace: Instant) {
    for (topic, (_, every)) in topics.iter().zip(TOPICS) {
        let upstream = upstream.clone();
        let topic = topic.clone();
        let mut rng = rng.fork();
        tokio::spawn(async move {
            while Instant::now() < peace {
                time::sleep(Duration::from_millis(rng.u64(1..every * 2))).await;
                upstream.produce(&topic);
            }
        });
    }
}

/// Starts the clients. Returns what they know.
fn start_clients(
    world: &Arc<World>,
    topics: &[Topic],
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
        };
        tokio::spawn(client.run(world.clone(), peace));
    }
    positions
}

/// Draws how often each fault of the services happens.
fn draw_faults(
    rng: &mut fastrand::Rng,
    database: &Database,
    gateway: &Gateway,
    environments: &Environments,
) {
    // Each kind of fault happens in some of the runs, so that a failing seed points to its cause.
    let mut if_drawn =
        |share: f64, most: f64| if rng.f64() < share { rng.f64() * most } else { 0.0 };
    database.set_faults(database::Faults {
        index_lag: Duration::from_secs(5).mul_f64(if_drawn(0.6, 1.0)),
        throttled: if_drawn(0.4, 0.1),
        lost_responses: if_drawn(0.4, 0.05),
    });
    gateway.set_faults(gateway::Faults {
        failed_after_delivery: if_drawn(0.4, 0.05),
        throttled: if_drawn(0.4, 0.2),
        hung: if_drawn(0.3, 0.01),
    });
    environments.set_faults(environments::Faults {
        throttled: if_drawn(0.4, 0.1),
        lost_responses: if_drawn(0.4, 0.02),
        killed: if_drawn(0.4, 0.02),
        abandoned: if_drawn(0.4, 0.01),
        cold: if_drawn(0.7, 0.5),
    });
}

fn topics() -> Vec<Topic> {
    TOPICS.iter().map(|(name, _)| Topic::parse(name).unwrap()).collect()
}

struct Pollers {
    started: u32,
    links: Vec<Link>,
}

fn families(topics: &[Topic], upstream: &Upstream) -> Vec<Family> {
    let family = |family: &'static str| {
        let topics = topics.iter().filter(|topic| topic.source() == family).cloned().collect();
        let source = SimulatedSource { family, topics, upstream: upstream.clone() };
        (family.to_owned(), vec![Arc::new(source) as Arc<dyn Source>])
    };
    vec![family("coinbase"), family("mastodon")]
}

fn app(tables: Tables, gateway: &Gateway) -> App {
    let mut options = FunctionOptions::try_parse_from(["functions"]).unwrap().options;
    options.shards = domain::shard::Shards::parse(&SHARDS.to_string()).unwrap();
    let preset = options.preset(SetText::open()).unwrap();
    let secret = SecretString::from("a secret of the simulation, which is long enough");
    App::new(tables, Arc::new(gateway.clone()), options, preset, secret)
}
