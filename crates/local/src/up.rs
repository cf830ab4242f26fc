//! `headwater up`: the whole on this machine.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use ::functions::{
    app::{App, Clock, Options as FunctionOptions},
    callback::Callback,
    origin::Origins,
    push::Pusher,
};
use ::poller::{
    config::{Options as PollerOptions, Servers, Token, Tokens},
    poller::{Poller, claim},
    families::families,
};
use anyhow::{Context as _, anyhow, ensure};
use aws::{
    clients::{Clients, TableOptions},
    control::Origin,
};
use domain::{policy::SetText, topic::Topic};
use jiff::Timestamp;
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    database::Engine,
    functions::{AUTHORIZE, CONNECTION, InProcess, REST},
    gateway::{Authorizer, Callbacks, Config, Gateway, HttpRoutes, Limits, Routes, Sockets},
    simulator::{self, Simulator},
};

/// What the simulation records unless told otherwise, so that there is history to look at.
const DEMO_RECORD: [&str; 4] = [
    "coinbase/ticker/BTC-USD",
    "coinbase/matches/BTC-USD",
    "coinbase/ticker/ETH-USD",
    "mastodon/public",
];

/// The settings of `headwater up`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Address to listen at.
    #[arg(long, env = "HEADWATER_LISTEN", default_value = "127.0.0.1:8080")]
    pub listen: SocketAddr,

    /// Folder for the database. Without it, all is forgotten when the program ends.
    #[arg(long, env = "HEADWATER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// Run simulated upstreams beside it, and use those.
    #[arg(long)]
    pub simulated: bool,

    /// With `--simulated`: decides everything that is made up.
    #[arg(long, default_value_t = 1, requires = "simulated")]
    pub seed: u64,

    /// With `--simulated`: mean of trades a second; a tenth as many posts.
    #[arg(long, default_value_t = 20.0, requires = "simulated")]
    pub rate: f64,

    /// The tables.
    #[command(flatten)]
    pub tables: TableOptions,

    /// The functions.
    #[command(flatten)]
    pub functions: FunctionOptions,

    /// The poller.
    #[command(flatten)]
    pub poller: PollerOptions,
}

/// A running Headwater.
pub struct Up {
    is_open: bool,
    gateway: Gateway,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    simulator: Option<Simulator>,
    stopped: watch::Receiver<Option<String>>,
}

impl Up {
    /// Starts everything; it runs until `shutdown`.
    ///
    /// # Errors
    ///
    /// When an address cannot be listened at, or the data folder cannot be used.
    #[expect(clippy::too_many_lines, reason = "the parts are put together once, in order")]
    pub async fn start(options: Options, shutdown: CancellationToken) -> anyhow::Result<Self> {
        let mut options = options;
        let tasks = TaskTracker::new();
        let engine = Engine::open(options.data_dir.as_deref())?;
        let clients = Clients::from_config(engine.sdk_config());
        let tables = clients.tables(&options.tables);
        tables.create_missing().await.context("cannot make the tables")?;
        let origin = if options.simulated { Origin::Simulated } else { Origin::Live };
        claim(&tables, origin).await?;
        // The database is this process's alone, so whoever had a lease or a connection is dead.
        tables.control.clear_leases().await.context("cannot read the tables")?;
        for shard in options.functions.shards.all() {
            for connection in tables.connections.all(shard).await? {
                if !connection.gone {
                    let id = &connection.recipient.id;
                    tables.connections.close(shard, id, Timestamp::now()).await?;
                }
            }
        }

        let simulator = if options.simulated {
            let simulation = simulator::Options {
                seed: options.seed,
                rate: options.rate,
                ..simulator::Options::default()
            };
            let simulator = Simulator::start(&simulation, shutdown.clone())
                .await
                .context("cannot start the simulators")?;
            options.poller.coinbase_url = simulator.coinbase_url().parse()?;
            options.poller.coinbase_rest_url = simulator.coinbase_rest_url().parse()?;
            options.poller.mastodon_servers = Servers(vec![simulator.mastodon_url().parse()?]);
            let token = SecretString::from(simulation.mastodon_token);
            options.poller.mastodon_tokens = Tokens(vec![Token { host: None, token }]);
            if options.poller.coinbase_record.is_empty()
                && options.poller.mastodon_record.is_empty()
            {
                let topics = DEMO_RECORD.iter().filter_map(|topic| Topic::parse(topic).ok());
                options.poller.coinbase_record.extend(topics);
            }
            Some(simulator)
        } else {
            None
        };

        let clock: Clock = Arc::new(Timestamp::now);
        let sockets = Arc::new(Sockets::new(Limits::guarded()));
        // Connections die with the process, and so may the secret of their tokens.
        let secret = options.functions.connection_secret.clone().unwrap_or_else(|| {
            let random: [u8; 32] = rand::random();
            SecretString::from(random.map(|byte| format!("{byte:02x}")).concat())
        });
        let shards = options.functions.shards.all();
        ensure!(!shards.is_empty(), "there are no shards");
        let mut functions = options.functions;
        if functions.callback_url == Callback::default() {
            functions.callback_url = format!("http://{}/live", options.listen)
                .parse()
                .map_err(|reason: String| anyhow!(reason))?;
        }
        functions.allowed_origins.get_or_insert(Origins::Same);
        let is_open = functions.is_open();
        let preset = functions.preset(SetText::open())?;
        let app = Arc::new(App::new(tables.clone(), sockets.clone(), functions, preset, secret));
        let in_force = app.in_force().await.context("cannot read the rules")?;
        let rules = app.rules.clone();
        let pusher = Arc::new(Pusher::new(&tables, sockets.clone(), rules, clock.clone()));

        let (ready, is_ready) = watch::channel(false);
        let config = Config {
            routes: Routes::default()
                .with("$connect", CONNECTION)
                .with("$disconnect", CONNECTION)
                .with("$default", CONNECTION),
            authorizer: Some(Authorizer::new(AUTHORIZE)),
            http: HttpRoutes::to(REST, Some(Authorizer::new(AUTHORIZE))),
            ready: is_ready,
            // The functions are in this process. With tokens there is somebody to be kept out.
            callbacks: if is_open { Callbacks::Loopback } else { Callbacks::Off },
            ..Config::new(options.listen)
        };
        let gateway_stop = CancellationToken::new();
        let functions = Arc::new(InProcess::new(app, pusher.clone(), clock));
        let gateway = Gateway::start(config, sockets, functions, gateway_stop.clone())
            .with_context(|| format!("cannot listen at {}", options.listen))?;

        let sweeper = engine.sweep(shutdown.clone());
        tasks.spawn(sweeper);
        let poller = Poller {
            tables,
            push: pusher,
            origin,
            shards,
            owner: format!("up-{}", std::process::id()).into(),
            families: families(&options.poller, options.tables.retention, Timestamp::now())?,
            looks: watch::channel(None).0,
        };
        let (stop, stopped) = watch::channel(None);
        let (poller_options, poller_shutdown) = (options.poller, shutdown.clone());
        let failed = shutdown.clone();
        tasks.spawn(async move {
            if let Err(error) = poller.run(&poller_options, poller_shutdown).await {
                let _ = stop.send(Some(format!("{error:#}")));
                failed.cancel();
            }
            // Clients get what the poller sent last before they are sent away.
            gateway_stop.cancel();
        });
        tasks.close();
        ready.send_replace(true);
        // The value outlives its sender, which nobody needs any more.
        info!(address = %gateway.address(), "headwater is up");
        match (in_force.version, is_open) {
            (0, true) => info!("no tokens are accepted: everybody sees everything"),
            (0, false) => info!("the rules are those to begin with"),
            (version, _) => info!(version, "the rules are those that were put in force"),
        }
        Ok(Self { is_open, gateway, tasks, shutdown, simulator, stopped })
    }

    /// The address it listens at.
    pub fn address(&self) -> SocketAddr {
        self.gateway.address()
    }

    /// Whether nobody is told from anybody else, because no tokens are accepted.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The simulators that run beside it.
    pub fn simulator(&self) -> Option<&Simulator> {
        self.simulator.as_ref()
    }

    /// Waits until it has stopped, by its shutdown token or because it cannot go on.
    ///
    /// # Errors
    ///
    /// When it could not go on.
    pub async fn stopped(self) -> anyhow::Result<()> {
        self.shutdown.cancelled().await;
        self.tasks.wait().await;
        self.gateway.stopped().await;
        if let Some(simulator) = self.simulator {
            simulator.stopped().await;
        }
        let reason = self.stopped.borrow().clone();
        match reason {
            None => Ok(()),
            Some(reason) => {
                warn!(reason, "headwater cannot go on");
                anyhow::bail!(reason)
            }
        }
    }
}
