//! `headwater database`: the embedded DynamoDB, served over HTTP.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow};
use aws::clients::{Clients, TableOptions};
use dynoxide::Database;
use tokio::{net::TcpListener, time};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How often expired items are deleted; the engine does not do that by itself.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// The settings of `headwater database`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Address to listen at.
    #[arg(long, env = "HEADWATER_DATABASE_LISTEN", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// Folder for the database. Without it, all is forgotten when the program ends.
    #[arg(long, env = "HEADWATER_DATA_DIR")]
    pub data_dir: Option<PathBuf>,

    /// The tables, which are made where they are missing.
    #[command(flatten)]
    pub tables: TableOptions,
}

/// Serves the database until `shutdown`, with Headwater's tables in it.
///
/// # Errors
///
/// When the address cannot be listened at, or the data folder cannot be used.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let (database, _lock) = dynamo::open(options.data_dir.as_deref())?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen at {}", options.listen))?;
    let address = listener.local_addr()?;
    let stop = shutdown.clone();
    let serving = tokio::spawn(dynoxide::server::serve_with_shutdown(
        listener,
        database.clone(),
        async move { stop.cancelled().await },
    ));
    let clients = Clients::of_stand_in(&format!("http://{address}")).await;
    let tables = clients.tables(&options.tables);
    tables.create_missing().await.context("cannot make the tables")?;
    info!(%address, prefix = options.tables.table_prefix, "database is up");
    let mut timer = time::interval(SWEEP_EVERY);
    while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
        sweep(&database).await;
    }
    serving.await?.map_err(|error| anyhow!(error)).context("the database's server broke")
}

async fn sweep(database: &Database) {
    let database = database.clone();
    match tokio::task::spawn_blocking(move || database.sweep_ttl()).await {
        Ok(Ok(_)) => {}
        Ok(Err(error)) => warn!(%error, "expired items could not be deleted"),
        Err(error) => warn!(%error, "deleting expired items broke"),
    }
}
