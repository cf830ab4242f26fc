//! `headwater simulate`: the simulated upstreams alone.

use anyhow::Context as _;
use simulator::Simulator;
use tokio_util::sync::CancellationToken;

use crate::output::print;

/// Run a simulated Coinbase exchange and a simulated Mastodon server.
///
/// Prints the settings that connect `headwater up` or `headwater-poller` to them.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    #[command(flatten)]
    simulation: ::simulator::Options,
}

/// Runs both servers until `shutdown`.
///
/// # Errors
///
/// When an address cannot be bound.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let simulator = Simulator::start(&options.simulation, shutdown.clone())
        .await
        .context("cannot start the simulators")?;
    print(&format!(
        "HEADWATER_COINBASE_URL={}\nHEADWATER_COINBASE_REST_URL={}\n\
         HEADWATER_MASTODON_SERVERS={}\nHEADWATER_MASTODON_TOKENS={}\n",
        simulator.coinbase_url(),
        simulator.coinbase_rest_url(),
        simulator.mastodon_url(),
        options.simulation.mastodon_token,
    ));
    shutdown.cancelled().await;
    simulator.stopped().await;
    Ok(())
}
