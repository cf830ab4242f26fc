//! Headwater as one server: database, functions, gateway and poller.

use std::{net::SocketAddr, ops::Range, path::PathBuf, sync::Arc};

use ::functions::{
    access::origin::Origins, app::App, connection::callback::Callback, push::Pusher,
    settings::Options as FunctionOptions,
};
use ::poller::{
    config::{Options as PollerOptions, Servers, Token, Tokens},
    families::families,
    outside::Outside,
    poller::{Poller, claim},
};
use anyhow::{Context as _, anyhow, ensure};
use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use domain::{
    clock::Clock, connection::LIFETIME, provenance::Provenance, rules::SetText, shard::Shard,
    topic::Topic,
};
use dynamo::{Durability, Engine, Storage};
use gateway::{
    Authorizer, Callbacks, Config, Gateway, GatewayLimits, Hosts, HttpRoutes, Routes, Sockets,
};
use jiff::Timestamp;
use secrecy::SecretString;
use simulator::Simulator;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use super::functions::{AUTHORIZE, CONNECTION, DirectFunctions, REST};
use crate::adapters::SocketTable;

/// Largest body of a request: rules are the largest thing that clients send.
const BODY_BYTES: usize = 1_024 * 1_024;

/// The topics that a simulation records by default, so that there is a history to look at.
const DEMO_TOPICS: [&str; 4] = [
    "coinbase/ticker/BTC-USD",
    "coinbase/matches/BTC-USD",
    "coinbase/ticker/ETH-USD",
    "mastodon/public",
];

/// The settings of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The address to listen on. Port 0 takes a free port.
    pub listen: SocketAddr,
    /// The host names that requests may have, beside addresses and `localhost`.
    pub hosts: Vec<String>,
    /// The folder of the database; none keeps the data in memory.
    pub data_dir: Option<PathBuf>,
    /// When a write to that folder counts as done.
    pub durability: Durability,
    /// The simulated upstreams to run and read; none reads the upstreams of `poller`.
    pub simulation: Option<simulator::Options>,
    /// The settings of the tables.
    pub tables: TableOptions,
    /// The settings of the functions.
    pub functions: FunctionOptions,
    /// The settings of the poller.
    pub poller: PollerOptions,
}

/// A running server.
pub struct Server {
    is_open: bool,
    gateway: Gateway,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    simulator: Option<Simulator>,
    /// Why the poller failed.
    failure: watch::Receiver<Option<String>>,
}

impl Server {
    /// Starts all parts. They run until `shutdown`.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound, the data folder cannot be used, or a setting is not valid.
    pub async fn start(settings: Settings, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let Settings {
            listen,
            hosts,
            data_dir,
            durability,
            simulation,
            tables: table_options,
            functions,
            mut poller,
        } = settings;
        let origin = if simulation.is_some() { Provenance::Simulated } else { Provenance::Live };
        let shards = functions.shards.all();
        ensure!(!shards.is_empty(), "there are no shards");

        let engine = Engine::start(Storage::open_with(data_dir.as_deref(), durability)?)?;
        let tables = Clients::from_config(engine.sdk_config()).tables(&table_options);
        tables.create_missing().await.context("cannot create the tables")?;
        claim(&tables, origin).await?;
        release_previous_owner(&tables, shards.clone()).await?;

        let simulator = match &simulation {
            Some(options) => Some(start_simulator(options, &mut poller, shutdown.clone()).await?),
            None => None,
        };

        let clock = Clock::new(Timestamp::now);
        let limits = GatewayLimits { http_body_bytes: BODY_BYTES, ..GatewayLimits::guarded() };
        let sockets = Arc::new(Sockets::new(limits));
        let outlet = Arc::new(SocketTable(sockets.clone()));
        let is_open = functions.is_open();
        let app = Arc::new(app(functions, listen, tables.clone(), outlet.clone())?);
        let pusher = Arc::new(Pusher::new(&tables, outlet, app.rules.clone(), clock.clone()));
        let rules = app.rules.current().await.context("cannot read the rules")?;

        // Cancelled after the poller has stopped: clients get the last events before they are
        // disconnected.
        let gateway_shutdown = CancellationToken::new();
        let (ready, is_ready) = watch::channel(false);
        let gateway = Gateway::start(
            gateway_config(listen, hosts, is_open, is_ready),
            sockets,
            Arc::new(DirectFunctions::new(app, pusher.clone(), clock.clone())),
            gateway_shutdown.clone(),
        )
        .with_context(|| format!("cannot listen on {listen}"))?;

        let tasks = TaskTracker::new();
        tasks.spawn(engine.delete_expired(shutdown.clone()));
        let outside = Outside::real(&poller.user_agent, &poller.mastodon_streaming_hosts)?;
        let families = families(&poller, table_options.retention, &outside)?;
        let (failed, failure) = watch::channel(None);
        let stop = shutdown.clone();
        tasks.spawn(async move {
            let parts = Poller {
                tables,
                push: pusher,
                provenance: origin,
                shards,
                // The sockets are in this process, and no quota applies to them.
                posts_per_second: u32::MAX,
                owner: format!("up-{}", std::process::id()).into(),
                families,
                clock,
                looks: watch::channel(None).0,
            };
            if let Err(error) = parts.run(&poller, stop.clone()).await {
                let _ = failed.send(Some(format!("{error:#}")));
                stop.cancel();
            }
            gateway_shutdown.cancel();
        });
        tasks.close();

        ready.send_replace(true);
        info!(address = %gateway.address(), "headwater is up");
        match (rules.version, is_open) {
            (0, true) => info!("access control is off: everybody can read everything"),
            (0, false) => info!("the built-in rules or those of HEADWATER_POLICY are in force"),
            (version, _) => info!(version, "the stored rules are in force"),
        }
        Ok(Self { is_open, gateway, tasks, shutdown, simulator, failure })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Returns whether access control is off: no tokens are accepted, and all clients are equal.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// Returns the simulated upstreams that this server reads.
    pub fn simulator(&self) -> Option<&Simulator> {
        self.simulator.as_ref()
    }

    /// Waits until the server has stopped, because of its shutdown token or of a failure.
    ///
    /// # Errors
    ///
    /// When a part failed and stopped the server.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.shutdown.cancelled().await;
        self.tasks.wait().await;
        self.gateway.stopped().await;
        if let Some(simulator) = self.simulator {
            simulator.stopped().await;
        }
        let failure = self.failure.borrow().clone();
        match failure {
            None => Ok(()),
            Some(reason) => {
                warn!(reason, "the poller failed; the server has stopped");
                Err(anyhow!(reason))
            }
        }
    }
}

/// Releases the leases and closes the connections of the previous process. Only one process can have
/// the database open, so the previous one has ended.
async fn release_previous_owner(tables: &Tables, shards: Range<Shard>) -> anyhow::Result<()> {
    tables.control.clear_leases().await.context("cannot clear the leases")?;
    for shard in shards {
        let opened_since = Timestamp::now() - LIFETIME;
        for connection in tables.connections.changes(shard, opened_since).await? {
            if !connection.gone {
                let id = &connection.recipient.id;
                tables.connections.close(shard, id).await?;
            }
        }
    }
    Ok(())
}

/// Starts the simulated upstreams and makes the poller read them.
async fn start_simulator(
    options: &simulator::Options,
    poller: &mut PollerOptions,
    shutdown: CancellationToken,
) -> anyhow::Result<Simulator> {
    let simulator =
        Simulator::start(options, shutdown).await.context("cannot start the simulators")?;
    poller.coinbase_url = simulator.coinbase_url().parse()?;
    poller.coinbase_rest_url = simulator.coinbase_rest_url().parse()?;
    poller.mastodon_servers = Servers(vec![simulator.mastodon_url().parse()?]);
    let token = SecretString::from(options.mastodon_token.clone());
    poller.mastodon_tokens = Tokens(vec![Token { host: None, token }]);
    if poller.coinbase_record.is_empty() && poller.mastodon_record.is_empty() {
        poller.coinbase_record.extend(DEMO_TOPICS.iter().filter_map(|t| Topic::parse(t).ok()));
    }
    Ok(simulator)
}

/// Makes the state of the functions.
fn app(
    mut options: FunctionOptions,
    listen: SocketAddr,
    tables: Tables,
    outlet: Arc<SocketTable>,
) -> anyhow::Result<App> {
    // Connections end with the process, so the secret of their tokens need not outlive it.
    let connection_secret = options.connection_secret.clone().unwrap_or_else(|| {
        let random: [u8; 32] = rand::random();
        SecretString::from(random.map(|byte| format!("{byte:02x}")).concat())
    });
    if options.callback_url == Callback::default() {
        options.callback_url =
            format!("http://{listen}/live").parse().map_err(|reason: String| anyhow!(reason))?;
    }
    options.allowed_origins.get_or_insert(Origins::Same);
    let preset = options.preset(SetText::open())?;
    Ok(App::new(tables, outlet, options, preset, connection_secret))
}

fn gateway_config(
    listen: SocketAddr,
    hosts: Vec<String>,
    is_open: bool,
    ready: watch::Receiver<bool>,
) -> Config {
    Config {
        routes: Routes::default()
            .with("$connect", CONNECTION)
            .with("$disconnect", CONNECTION)
            .with("$default", CONNECTION),
        authorizer: Some(Authorizer::new(AUTHORIZE)),
        http: HttpRoutes::to(REST, Some(Authorizer::new(AUTHORIZE))),
        ready,
        hosts: Hosts::new(hosts),
        // The functions post directly. With access control, nobody else may post.
        callbacks: if is_open { Callbacks::Loopback } else { Callbacks::Off },
        ..Config::new(listen)
    }
}
