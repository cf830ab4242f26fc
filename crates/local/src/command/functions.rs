//! `headwater functions`: the four functions in one process, behind Lambda's `Invoke`.

use std::{net::SocketAddr, sync::Arc};

use ::functions::settings::Environment;
use anyhow::Context as _;
use aws::clients::Clients;
use domain::clock::Clock;
use jiff::Timestamp;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::{in_process::DirectFunctions, invoke_server};

/// Run the four functions in one process, behind Lambda's Invoke API.
///
/// Finds DynamoDB and the credentials like any AWS program, as in `AWS_REGION`, `AWS_PROFILE` or
/// `AWS_ENDPOINT_URL_DYNAMODB`.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Serve `Invoke` on this address.
    #[arg(
        long,
        env = "HEADWATER_FUNCTIONS_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:9000"
    )]
    pub listen: SocketAddr,

    /// The settings that the functions have in their environment on AWS.
    #[command(flatten)]
    pub environment: Environment,
}

/// Serves the functions until `shutdown`.
///
/// # Errors
///
/// When the address cannot be bound, a setting is missing, or the tables cannot be read.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let clients = Clients::from_env().await?;
    let clock = Clock::new(Timestamp::now);
    let pusher = Arc::new(options.environment.pusher(&clients, clock.clone())?);
    let app = Arc::new(options.environment.app(&clients).await?);
    app.tables.check().await?;
    let functions = Arc::new(DirectFunctions::new(app, pusher, clock));
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}", options.listen))?;
    info!(address = %listener.local_addr()?, "functions are up");
    axum::serve(listener, invoke_server::router(functions))
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("the server of the functions failed")
}
