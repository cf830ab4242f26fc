//! The hosts that requests may name, which several commands have in common.

/// The hosts of a gateway.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct Hosts {
    /// Serve requests for these host names, separated by commas; `*` serves all. Addresses and `localhost`
    /// are always served. A page of another site cannot reach the gateway under a name of its own.
    #[arg(long, env = "HEADWATER_HOSTS", value_name = "NAMES", value_delimiter = ',')]
    pub hosts: Vec<String>,
}
