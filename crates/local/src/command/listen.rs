//! The listen address of a server, which several commands have in common.

use std::net::SocketAddr;

/// The address at which Headwater or a gateway listens.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Listen {
    /// Listen on this address.
    #[arg(
        id = "listen",
        long,
        env = "HEADWATER_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8080"
    )]
    pub address: SocketAddr,
}
