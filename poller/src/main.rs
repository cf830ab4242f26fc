//! The poller as a container on AWS.

use std::{io::Write as _, net::SocketAddr, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, ensure};
use aws::{
    clients::{Clients, TableOptions},
    settings::explain,
};
use axum::{Json, Router, http::StatusCode, response::IntoResponse as _, routing::get};
use clap::{CommandFactory as _, Parser, Subcommand};
use domain::{chain::Chain, clock::Clock, log_filter, provenance::Provenance, shard::Shards};
use jiff::Timestamp;
use poller::{
    config,
    families::families,
    health::{Looks, METRICS_EVERY},
    outside::Outside,
    poller::Poller,
};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
    sync::watch,
    time,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// The exit code for a wrong command line, as `clap` has it.
const USAGE: u8 = 2;

/// Longest time that the health check waits for a response.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(4);

/// Read the upstreams, number their events, append them to the log, and invoke `push`.
#[derive(Debug, Parser)]
#[command(name = "headwater-poller", version)]
struct Options {
    #[command(subcommand)]
    command: Option<Command>,

    #[command(flatten)]
    poller: config::Options,

    #[command(flatten)]
    tables: TableOptions,

    /// Number of shards that connections are divided into. The poller also follows the shards that the
    /// functions are configured for.
    #[arg(long, env = "HEADWATER_SHARDS", default_value = "1", value_parser = Shards::parse)]
    shards: Shards,

    /// Name or ARN of the `push` function.
    #[arg(long, env = "HEADWATER_PUSH_FUNCTION", default_value = "push")]
    push_function: String,

    /// Most messages per second that are posted to connections. The quota of an
    /// AWS account is 10,000 requests per second for all its APIs.
    #[arg(long, env = "HEADWATER_POSTS_PER_SECOND", default_value_t = 5_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    posts_per_second: u32,

    /// Label all data as simulated, because the upstreams are simulators.
    #[arg(long, env = "HEADWATER_SIMULATED")]
    simulated: bool,

    /// Serve the health endpoint, `/healthz`, at this address. By default there is none.
    #[arg(long, env = "HEADWATER_HEALTH_LISTEN", global = true)]
    health_listen: Option<SocketAddr>,

    /// Write metrics to the log once a minute, in `CloudWatch`'s embedded metric format.
    #[arg(long, env = "HEADWATER_METRICS")]
    metrics: bool,

    /// Log filter, such as `debug` or `info,poller=debug`. A level alone concerns Headwater's own crates;
    /// others log at `info` at most unless the filter names them.
    #[arg(long, env = "HEADWATER_LOG", default_value = "info", value_parser = parse_filter)]
    log: EnvFilter,
}

fn parse_filter(text: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    EnvFilter::try_new(log_filter::parse(text))
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the poller that listens at `--health-listen`. Exit with 0 if it is healthy. This is the
    /// container's health check.
    Health,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = match Options::try_parse() {
        Ok(options) => options,
        Err(error) => match explain(&Options::command(), &error) {
            Some(message) => {
                let _ = writeln!(std::io::stderr(), "headwater-poller: {message}");
                return ExitCode::from(USAGE);
            }
            None => error.exit(),
        },
    };
    if let Some(Command::Health) = options.command {
        return match check_health(options.health_listen).await {
            Ok(health) => {
                let _ = writeln!(std::io::stdout(), "{health}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "headwater-poller: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    tracing_subscriber::fmt().json().with_env_filter(options.log.clone()).init();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %Chain(error.as_ref()), "the poller stopped because of an error");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!("received a signal; stopping");
        stop.cancel();
    });
    let clients = Clients::from_env().await?;
    let owner: u64 = rand::random();
    let looks = watch::Sender::new(None);
    if let Some(address) = options.health_listen {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("could not listen on {address}"))?;
        tokio::spawn(axum::serve(listener, health(looks.subscribe())).into_future());
    }
    if options.metrics {
        tokio::spawn(write_metrics(looks.subscribe(), options.tables.table_prefix.clone()));
    }
    let outside =
        Outside::real(&options.poller.user_agent, &options.poller.mastodon_streaming_hosts)?;
    let poller = Poller {
        families: families(&options.poller, options.tables.retention, &outside)?,
        tables: clients.tables(&options.tables),
        push: Arc::new(clients.push(options.push_function)),
        provenance: if options.simulated { Provenance::Simulated } else { Provenance::Live },
        shards: options.shards.all(),
        posts_per_second: options.posts_per_second,
        owner: format!("poller-{owner:016x}").into(),
        clock: Clock::new(Timestamp::now),
        looks,
    };
    poller.run(&options.poller, shutdown).await
}

fn health(looks: Looks) -> Router {
    let respond = async move || {
        let look = looks.borrow().clone();
        match look {
            Some(look) if look.is_healthy(Timestamp::now()) => Json(look).into_response(),
            Some(look) => (StatusCode::SERVICE_UNAVAILABLE, Json(look)).into_response(),
            None => (StatusCode::SERVICE_UNAVAILABLE, "starting").into_response(),
        }
    };
    Router::new().route("/healthz", get(respond))
}

/// Requests the health of a poller.
async fn check_health(address: Option<SocketAddr>) -> anyhow::Result<String> {
    let address = address.context("HEADWATER_HEALTH_LISTEN (--health-listen) is not set")?;
    let client = reqwest::Client::builder().timeout(HEALTH_TIMEOUT).build()?;
    let response = client
        .get(format!("http://{address}/healthz"))
        .send()
        .await
        .with_context(|| format!("no poller responded at {address}"))?;
    let status = response.status();
    let health = response.text().await?;
    ensure!(status.is_success(), "the poller is not healthy: {health}");
    Ok(health)
}

/// Writes metrics to the standard output, like the log.
async fn write_metrics(looks: Looks, deployment: String) {
    let mut before = None;
    let mut timer = time::interval(METRICS_EVERY);
    timer.tick().await;
    loop {
        timer.tick().await;
        let Some(look) = looks.borrow().clone() else { continue };
        let line = look.to_metrics(before.as_ref(), &deployment);
        let _ = writeln!(std::io::stdout(), "{line}");
        before = Some(look);
    }
}
