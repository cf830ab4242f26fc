//! A running gateway: its start, its time limits and its shutdown.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::TcpListener, sync::Semaphore, task::JoinHandle, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    addresses::Addresses, clock, config::Config, functions::Functions, http_server::server,
    sockets::table::Sockets, state::GatewayState,
};

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    sockets: Arc<Sockets>,
    task: JoinHandle<()>,
}

impl Gateway {
    /// Listens and serves until `shutdown` is cancelled. The gateway then closes every connection with
    /// code 1001 and invokes `$disconnect` for it, within the grace period of the limits.
    ///
    /// # Errors
    ///
    /// When the gateway cannot listen on the address.
    ///
    /// # Panics
    ///
    /// Outside a Tokio runtime.
    pub fn start(
        config: Config,
        sockets: Arc<Sockets>,
        functions: Arc<dyn Functions>,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let listener = server::listen(config.listen, sockets.limits().socket_buffer_bytes)?;
        let address = listener.local_addr()?;
        info!(%address, stage = config.api.stage, "gateway is listening");
        let state = GatewayState {
            config,
            functions,
            sockets: sockets.clone(),
            tasks: TaskTracker::new(),
            handshakes: Semaphore::new(sockets.limits().handshakes),
            addresses: Addresses::new(sockets.limits()),
            connections: Arc::new(Semaphore::new(sockets.limits().connections)),
            shutdown,
        };
        let task = tokio::spawn(run(Arc::new(state), listener));
        Ok(Self { address, sockets, task })
    }

    /// Returns the address that the gateway listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the table of open connections.
    pub fn sockets(&self) -> Arc<Sockets> {
        self.sockets.clone()
    }

    /// Waits until the gateway has stopped.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            warn!(%error, "gateway task failed");
        }
    }
}

async fn run(state: Arc<GatewayState>, listener: TcpListener) {
    tokio::select! {
        () = server::accept(&state, listener) => {}
        () = close_overdue(&state.sockets) => {}
    }
    state.sockets.close_all();
    state.tasks.close();
    // One grace period for connections to drain, and another for `$disconnect` to finish.
    let grace = state.sockets.limits().grace * 2;
    if time::timeout(grace, state.tasks.wait()).await.is_err() {
        warn!(tasks = state.tasks.len(), "gateway stopped while tasks were still running");
    }
}

/// Enforces the time limits. One task serves all connections, because the limits are long and need
/// no precision.
async fn close_overdue(sockets: &Sockets) {
    let limits = sockets.limits();
    let shortest = limits.idle.min(limits.lifetime);
    let period = (shortest / 20).clamp(Duration::from_millis(1), Duration::from_secs(1));
    let mut ticks = time::interval(period);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sockets.close_overdue(clock::now());
    }
}
