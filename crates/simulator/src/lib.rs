//! Simulated upstreams: a Exchange exchange and a Mastodon server on loopback ports.
//!
//! They speak the real protocols and make up what they say, the same for the same seed.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use tokio::{net::TcpListener, time};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

pub use self::faults::{Fault, Faults, Switch};
use self::{exchange::Exchange, host::Host, mastodon::Mastodon, session::Timing};

mod decimal;
mod exchange;
mod faults;
mod host;
mod mangler;
mod market;
mod mastodon;
mod session;
mod stats;
mod timeline;
mod upgrade;

/// How long a client may take to read the rest of an answer after the shutdown.
const GRACE: Duration = Duration::from_secs(1);

/// How the simulators behave.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Decides everything that is made up: prices, trades, posts, and where faults strike.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Mean of trades a second over all products; books and tickers follow, and a tenth as many
    /// posts, edits and deletes a second are made, at least one in five seconds.
    #[arg(long, default_value_t = 20.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Where the exchange listens; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:4801")]
    pub coinbase_listen: SocketAddr,
    /// Where the Mastodon server listens; port 0 takes any that is free.
    #[arg(long, default_value = "127.0.0.1:4802")]
    pub mastodon_listen: SocketAddr,
    /// What goes wrong from the start, as a comma list; `PUT` and `DELETE` of
    /// `/_simulator/faults/{name}` on either port switch it later.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<Fault>,
    /// The token that the Mastodon server takes.
    #[arg(long, default_value = "simulated-token")]
    pub mastodon_token: String,
    /// How long the exchange waits for a client's first subscription.
    #[arg(long, default_value = "5s", value_parser = humantime::parse_duration)]
    pub subscribe_within: Duration,
    /// How often the Mastodon server pings its streaming clients.
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    pub ping_every: Duration,
}

impl Default for Options {
    /// The defaults of the command line, but on ports that are free.
    fn default() -> Self {
        let anywhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            seed: 1,
            rate: 20.0,
            coinbase_listen: anywhere,
            mastodon_listen: anywhere,
            faults: Vec::new(),
            mastodon_token: "simulated-token".to_owned(),
            subscribe_within: Duration::from_secs(5),
            ping_every: Duration::from_secs(30),
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
    mastodon: SocketAddr,
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
        let mastodon_listener = TcpListener::bind(options.mastodon_listen).await?;
        let coinbase_address = coinbase_listener.local_addr()?;
        let mastodon_address = mastodon_listener.local_addr()?;
        let (faults, tasks) = (Faults::new(&options.faults), TaskTracker::new());
        let shutdown = shutdown.child_token();
        let host = |switch: &Switch| {
            Arc::new(Host::new(options.seed, switch.clone(), tasks.clone(), shutdown.clone()))
        };

        let coinbase = Arc::new(Exchange::new(
            options.seed,
            options.rate,
            Timing { settle_within: Some(options.subscribe_within), ping_every: None },
            host(&faults.coinbase),
        ));
        serve(coinbase_listener, exchange::router(&coinbase), &tasks, &shutdown);
        tasks.spawn(coinbase.drive());

        let mastodon = Arc::new(Mastodon::new(
            options.seed,
            (options.rate / 10.0).max(0.2),
            options.mastodon_token.clone(),
            mastodon_address,
            Timing { settle_within: None, ping_every: Some(options.ping_every) },
            host(&faults.mastodon),
        ));
        serve(mastodon_listener, mastodon::router(&mastodon), &tasks, &shutdown);
        tasks.spawn(mastodon.drive());

        tasks.close();
        let (coinbase, mastodon) = (coinbase_address, mastodon_address);
        Ok(Self { coinbase, mastodon, faults, tasks, shutdown: shutdown.drop_guard() })
    }

    /// Returns the base of the exchange's WebSocket feed.
    pub fn coinbase_url(&self) -> String {
        format!("ws://{}", self.coinbase)
    }

    /// Returns the base of the exchange's REST interface.
    pub fn coinbase_rest_url(&self) -> String {
        format!("http://{}", self.coinbase)
    }

    /// Returns the base of the Mastodon server.
    pub fn mastodon_url(&self) -> String {
        format!("http://{}", self.mastodon)
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

/// Serves a router until shutdown; requests under way then have a moment to finish.
fn serve(listener: TcpListener, router: Router, tasks: &TaskTracker, shutdown: &CancellationToken) {
    let shutdown = shutdown.clone();
    let server =
        axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let too_late = async move {
        shutdown.cancelled().await;
        time::sleep(GRACE).await;
    };
    tasks.spawn(async move {
        tokio::select! {
            ended = server => if let Err(error) = ended {
                tracing::error!(%error, "a simulated upstream ended");
            },
            () = too_late => {}
        }
    });
}

#[cfg(test)]
mod tests;
