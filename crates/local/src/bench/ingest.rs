//! Ingest: Coinbase messages from their bytes to numbered frames.

/// The settings of the ingest benchmark.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Options {}

/// Runs it.
pub(super) async fn run(_options: &Options) -> anyhow::Result<()> {
    Ok(())
}
