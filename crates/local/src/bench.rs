//! `headwater bench`: measures speed and memory, and prints JSON lines.

mod broadcast;
mod client;
mod ingest;
mod load_generator;
mod process;

use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::output::print;

/// Measure speed and memory, and print one JSON line per result.
///
/// Without a command, runs `ingest` and then `broadcast`, which takes about a minute. Needs a release
/// build and Linux.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Bench {
    /// Measure the path of one topic from the exchange's socket to the sockets of many WebSocket
    /// clients. Takes about 15 seconds per rate.
    Broadcast(broadcast::Options),
    /// Measure the conversion of Coinbase messages from text to numbered frames, in one thread. Takes a
    /// few seconds.
    Ingest(ingest::Options),
}

/// Runs the given benchmark, or all of them.
///
/// # Errors
///
/// When the server cannot be started, or no event is delivered.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    if cfg!(debug_assertions) {
        info!("this is not a release build; use `make bench` for comparable results");
    }
    match options.bench {
        Some(Bench::Broadcast(options)) => broadcast::run(&options, &shutdown).await,
        Some(Bench::Ingest(options)) => ingest::run(&options),
        None => {
            ingest::run(&ingest::Options::default())?;
            broadcast::run(&broadcast::Options::default(), &shutdown).await
        }
    }
}

/// Prints a result with the version of the program and a description of the machine.
fn report(mut result: Value) {
    result["version"] = env!("CARGO_PKG_VERSION").into();
    result["machine"] = process::machine();
    print(&format!("{result}\n"));
}
