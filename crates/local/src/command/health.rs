//! `headwater health`: asks a running server whether it can serve.

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, ensure};

use super::listen::Listen;

/// The longest wait for the response.
const TIMEOUT: Duration = Duration::from_secs(4);

/// Check whether the server at `--listen` is ready; for the health check of a container.
///
/// Exits with 0 if it is ready, and with 1 if it is not, or does not respond within 4 seconds.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
#[command(mut_arg("listen", |argument| argument.help("Ask the server that listens on this address")))]
pub struct Options {
    #[command(flatten)]
    listen: Listen,
}

/// Asks the server once.
///
/// # Errors
///
/// When the server does not respond, or is not ready.
pub async fn run(options: &Options) -> anyhow::Result<()> {
    let mut address = options.listen.address;
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    let client = reqwest::Client::builder().timeout(TIMEOUT).build()?;
    let response = client
        .get(format!("http://{address}/healthz"))
        .send()
        .await
        .with_context(|| format!("no response from {address}"))?;
    let status = response.status();
    ensure!(status.is_success(), "the server at {address} is not ready: {status}");
    Ok(())
}
