//! Simulated upstreams on loopback ports: a Coinbase exchange.
//!
//! It speaks the real protocol and makes up what it says, the same for the same seed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::faults::{Fault, Faults, Switch};
use self::{coinbase::Coinbase, host::Host, session::Timing};

mod coinbase;
mod decimal;
mod exchange;
mod faults;
mod host;
mod mangler;
mod session;
mod stats;
mod upgrade;

/// How the simulators behave.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Decides everything that is made up: prices, trades, posts, and where faults strike.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Mean of trades a second over all products; books and tickers follow.
    #[arg(long, default_value_t = 20.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Where the exchange listens; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:4801")]
    pub coinbase_listen: SocketAddr,
    /// What goes wrong from the start, as a comma list; `PUT` and `DELETE` of
    /// `/_simulator/faults/{name}` on either port switch it later.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<Fault>,
    /// How long the exchange waits for a client's first subscription.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub subscribe_within: Duration,
}

impl Default for Options {
    /// The defaults of the command line, but on ports that are free.
    fn default() -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            seed: 1,
            rate: 20.0,
            coinbase_listen: anywhere,
            faults: Vec::new(),
            subscribe_within: Duration::from_secs(5),
        }
    }
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|error| format!("{error}"))?;
    if (0.01..=100_000.0).contains(&rate) {
        Ok(rate)
    } else {
        Err("not between 0.01 and 100000".to_owned())
    }
}

/// Both simulators, running; they stop when this is dropped.
#[derive(Debug)]
pub struct Simulator {
    coinbase: SocketAddr,
    faults: Faults,
    tasks: TaskTracker,
    shutdown: DropGuard,
}

impl Simulator {
    /// Binds and starts both servers; they stop when `shutdown` is cancelled.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound.
    pub async fn start(options: &Options, shutdown: CancellationToken) -> io::Result<Self> {
        let coinbase_listener = TcpListener::bind(options.coinbase_listen).await?;
        let coinbase_address = coinbase_listener.local_addr()?;
        let (faults, tasks) = (Faults::new(&options.faults), TaskTracker::new());
        let shutdown = shutdown.child_token();
        let host = |switch: &Switch| {
            Arc::new(Host::new(options.seed, switch.clone(), tasks.clone(), shutdown.clone()))
        };

        let coinbase = Arc::new(Coinbase::new(
            options.seed,
            options.rate,
            Timing { settle_within: Some(options.subscribe_within), ping_every: None },
            host(&faults.coinbase),
        ));
        serve(coinbase_listener, coinbase::router(&coinbase), &tasks, &shutdown);
        tasks.spawn(coinbase.drive());

        tasks.close();
        Ok(Self { coinbase: coinbase_address, faults, tasks, shutdown: shutdown.drop_guard() })
    }

    /// Returns the base of the exchange's WebSocket feed.
    pub fn coinbase_url(&self) -> String {
        format!("ws://{}", self.coinbase)
    }

    /// Returns the base of the exchange's REST interface.
    pub fn coinbase_rest_url(&self) -> String {
        format!("http://{}", self.coinbase)
    }

    /// Returns the faults, to be switched at any time.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Waits until the servers have ended; they do so when the token given at the start says so.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }

    /// Ends the servers and waits until they have.
    pub async fn stop(self) {
        drop(self.shutdown);
        self.tasks.wait().await;
    }
}

/// Serves a router until shutdown; what is under way then may finish.
fn serve(listener: TcpListener, router: Router, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let shutdown = shutdown.clone().cancelled_owned();
    tasks.spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(shutdown).await;
        if let Err(error) = served {
            tracing::error!(%error, "a simulated upstream ended");
        }
    });
}

#[cfg(test)]
mod tests;
