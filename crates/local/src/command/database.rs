//! `headwater database`: the embedded DynamoDB, served over HTTP.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::Context as _;
use aws::clients::{Clients, TableOptions};
use dynamo::{Durability, Engine, Server, Storage};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Run a DynamoDB server with Headwater's tables.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Listen on this address.
    #[arg(
        long,
        env = "HEADWATER_DATABASE_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8000"
    )]
    pub listen: SocketAddr,

    /// Keep the database in this folder. By default, the data is lost when the program ends.
    #[arg(long, env = "HEADWATER_DATA_DIR", value_name = "FOLDER")]
    pub data_dir: Option<PathBuf>,

    /// When a write to the database in the folder counts as done: `full` waits for the disk, so it
    /// survives a power failure; `fast` does not wait, and a power failure can lose the last writes.
    #[arg(long, env = "HEADWATER_DURABILITY", value_name = "WHEN", default_value = "full")]
    pub durability: Durability,

    /// The tables. Missing tables are created.
    #[command(flatten)]
    pub tables: TableOptions,
}

/// Serves a database with Headwater's tables until `shutdown`.
///
/// # Errors
///
/// When the address cannot be bound, or the data folder cannot be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let storage = Storage::open_with(options.data_dir.as_deref(), options.durability)?;
    let engine = Engine::start(storage)?;
    let tables = Clients::from_config(engine.sdk_config()).tables(&options.tables);
    tables.create_missing().await.context("cannot create the tables")?;
    let server = Server::start(options.listen, engine, shutdown)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    let address = server.address();
    info!(%address, prefix = options.tables.table_prefix, "database is up");
    Ok(server.stopped().await?)
}
