//! The poller as a container on AWS.

use std::{process::ExitCode, sync::Arc};

use aws::{
    clients::{Clients, TableOptions},
    connections::Shards,
    control::Origin,
    error::Chain,
};
use clap::Parser;
use jiff::Timestamp;
use poller::{config, poller::Poller, source::families};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};
use tracing_subscriber::EnvFilter;

/// Reads the upstreams, numbers what they say, appends it to the log and has it pushed.
#[derive(Debug, Parser)]
#[command(name = "headwater-poller", version)]
struct Options {
    #[command(flatten)]
    poller: config::Options,

    #[command(flatten)]
    tables: TableOptions,

    /// How many parts the connections are spread over; the same as for the functions.
    #[arg(long, env = "HEADWATER_SHARDS", default_value = "1", value_parser = Shards::parse)]
    shards: Shards,

    /// Name or ARN of the function `push`.
    #[arg(long, env = "HEADWATER_PUSH_FUNCTION", default_value = "push")]
    push_function: String,

    /// The upstreams are simulators, and so is the data.
    #[arg(long, env = "HEADWATER_SIMULATED")]
    simulated: bool,

    /// What to log, such as `debug` or `info,poller=debug`.
    #[arg(long, env = "HEADWATER_LOG", default_value = "info")]
    log: EnvFilter,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let Options { poller: options, tables, shards, push_function, simulated, log } = options;
    tracing_subscriber::fmt().json().with_env_filter(log).init();
    match run(&options, &tables, &shards, push_function, simulated).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = %Chain(error.as_ref()), "the poller cannot go on");
            ExitCode::FAILURE
        }
    }
}

async fn run(
    options: &config::Options,
    tables: &TableOptions,
    shards: &Shards,
    push_function: String,
    simulated: bool,
) -> anyhow::Result<()> {
    let shutdown = CancellationToken::new();
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        info!("stopping");
        stop.cancel();
    });
    let clients = Clients::from_env().await;
    let owner: u64 = rand::random();
    let poller = Poller {
        families: families(options, tables.retention, Timestamp::now())?,
        tables: clients.tables(tables),
        push: Arc::new(clients.push(push_function)),
        origin: if simulated { Origin::Simulated } else { Origin::Live },
        shards: shards.all(),
        owner: format!("poller-{owner:016x}").into(),
    };
    poller.run(options, shutdown).await
}
