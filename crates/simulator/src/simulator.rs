//! Both simulated upstreams with generated data, as `headwater simulate` runs them.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use jiff::{Span, SpanRelativeTo};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    exchange::{self, Exchange},
    faults::{Fault, Faults, Switch},
    host::Host,
    mastodon::{self, Mastodon},
    serve::serve,
    session::Timing,
};

/// The settings of the simulators.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Generate prices, trades, posts and faults from this seed.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Make this many trades per second on average, over all products. The number of posts, edits and
    /// deletes is a tenth of that, but at least one every five seconds.
    #[arg(long, default_value_t = 20.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Serve the exchange on this address. Port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:4801")]
    pub coinbase_listen: SocketAddr,
    /// Serve Mastodon on this address. Port 0 takes a free port.
    #[arg(long, default_value = "127.0.0.1:4802")]
    pub mastodon_listen: SocketAddr,
    /// Start with these faults, separated by commas. `PUT` and `DELETE` of `/_simulator/faults/{name}`
    /// on either port switch a fault on and off later.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub faults: Vec<Fault>,
    /// Accept this token on the Mastodon server.
    #[arg(long, default_value = "simulated-token")]
    pub mastodon_token: String,
    /// Close a connection to the exchange that has not subscribed within this time.
    #[arg(long, default_value = "5s", value_parser = parse_duration)]
    pub subscribe_within: Duration,
    /// Ping the streaming clients of the Mastodon server at this interval.
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    pub ping_every: Duration,
}

impl Default for Options {
    /// Returns the defaults of the command line, but with free ports.
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
        Err("it must be between 0.01 and 100000".to_owned())
    }
}

/// Parses a duration such as `30s`, `1min` or `500ms`.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let span: Span = text.parse().map_err(|error| format!("{error}"))?;
    let duration = span.to_duration(SpanRelativeTo::days_are_24_hours());
    duration
        .and_then(Duration::try_from)
        .map_err(|error| format!("it is not a valid duration: {error}"))
}

/// Both simulators. They stop when this is dropped.
#[derive(Debug)]
pub struct Simulator {
    coinbase: SocketAddr,
    mastodon: SocketAddr,
    faults: Faults,
    tasks: TaskTracker,
    shutdown: DropGuard,
}

impl Simulator {
    /// Starts both servers. They run until `shutdown` is cancelled.
    ///
    /// # Errors
    ///
    /// When an address cannot be bound.
    pub async fn start(options: &Options, shutdown: CancellationToken) -> io::Result<Self> {
        let coinbase_listener = TcpListener::bind(options.coinbase_listen).await?;
        let mastodon_listener = TcpListener::bind(options.mastodon_listen).await?;
        let coinbase_address = coinbase_listener.local_addr()?;
        let mastodon_address = mastodon_listener.local_addr()?;
        let faults = Faults::new(&options.faults);
        let tasks = TaskTracker::new();
        let shutdown = shutdown.child_token();
        let host = |switch: &Switch| {
            Arc::new(Host::new(options.seed, switch.clone(), tasks.clone(), shutdown.clone()))
        };

        let coinbase = Arc::new(Exchange::generated(
            options.seed,
            options.rate,
            Timing { settle_within: Some(options.subscribe_within), ping_every: None },
            host(&faults.coinbase),
        ));
        serve(coinbase_listener, exchange::router(&coinbase), &tasks, &shutdown);
        tasks.spawn(coinbase.drive());

        let mastodon = Arc::new(Mastodon::generated(
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
        Ok(Self {
            coinbase: coinbase_address,
            mastodon: mastodon_address,
            faults,
            tasks,
            shutdown: shutdown.drop_guard(),
        })
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

    /// Returns the faults. They can be switched at any time.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Waits until the servers have stopped because their shutdown token was cancelled.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }

    /// Stops the servers and waits until they have stopped.
    pub async fn stop(self) {
        drop(self.shutdown);
        self.tasks.wait().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_durations() {
        let cases = [
            ("30s", Some(Duration::from_secs(30))),
            ("500ms", Some(Duration::from_millis(500))),
            ("1min", Some(Duration::from_mins(1))),
            ("1h 30m", Some(Duration::from_mins(90))),
            ("24h", Some(Duration::from_hours(24))),
            ("365days", Some(Duration::from_hours(365 * 24))),
            ("-1s", None),
            ("30", None),
            ("soon", None),
        ];
        for (text, expected) in cases {
            assert_eq!(parse_duration(text).ok(), expected, "case: {text}");
        }
    }
}
