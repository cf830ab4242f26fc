//! A free loopback port for an upstream that a test or a benchmark controls.

use std::{io, net::SocketAddr, sync::Arc};

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{faults::Switch, host::Host, serve::serve};

/// A bound port, and the host of the upstream that will be served there.
pub(super) struct LoopbackPort {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    pub(super) host: Arc<Host>,
}

impl LoopbackPort {
    /// Binds a free port.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub(super) async fn bind() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let host = Host::new(1, Switch::new(&[]), TaskTracker::new(), CancellationToken::new());
        Ok(Self { listener, address, host: Arc::new(host) })
    }

    /// Serves a router until the guard is dropped.
    pub(super) fn serve(self, router: Router) -> DropGuard {
        serve(self.listener, router, &self.host.tasks, &self.host.shutdown);
        self.host.shutdown.clone().drop_guard()
    }
}
