//! The state that the tasks of a running gateway share.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{addresses::Addresses, config::Config, functions::Functions, sockets::table::Sockets};

/// The configuration, the connections and the tasks of a running gateway.
pub(crate) struct GatewayState {
    pub(crate) config: Config,
    pub(crate) functions: Arc<dyn Functions>,
    pub(crate) sockets: Arc<Sockets>,
    pub(crate) tasks: TaskTracker,
    /// One permit for each handshake that functions process.
    pub(crate) handshakes: Semaphore,
    pub(crate) addresses: Addresses,
    /// One permit for each TCP connection.
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) shutdown: CancellationToken,
}
