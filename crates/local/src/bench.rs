//! `headwater bench`: speed and memory, as JSON lines.

#![allow(clippy::unwrap_used, reason = "`json!` expands to one")]

mod broadcast;
mod client;
mod exchange;
mod ingest;
mod process;

use std::io::Write as _;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

/// The settings of `headwater bench`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(subcommand)]
    bench: Option<Bench>,
}

#[derive(Clone, Debug, clap::Subcommand)]
enum Bench {
    /// One topic to many WebSocket clients, from an upstream's socket to the clients' sockets.
    Broadcast(broadcast::Options),
    /// Messages of Coinbase, from their bytes to numbered frames.
    Ingest(ingest::Options),
}

/// Runs the benchmarks asked for, or all of them.
///
/// # Errors
///
/// When the server cannot be started, or nothing arrives.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    match options.bench {
        Some(Bench::Broadcast(options)) => broadcast::run(&options, &shutdown).await,
        Some(Bench::Ingest(options)) => ingest::run(&options),
        None => {
            ingest::run(&ingest::Options::default())?;
            broadcast::run(&broadcast::Options::default(), &shutdown).await
        }
    }
}

/// Prints one result, with the machine and the version it is of.
fn report(mut result: Value) {
    result["version"] = env!("CARGO_PKG_VERSION").into();
    result["machine"] = process::machine();
    let _ = writeln!(std::io::stdout(), "{result}");
}
