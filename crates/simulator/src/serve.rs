//! Serving a router until shutdown.

use std::time::Duration;

use axum::Router;
use tokio::{net::TcpListener, time};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// The longest time that a request may take after the shutdown.
const GRACE: Duration = Duration::from_secs(1);

/// Serves a router until shutdown. Requests in progress then have a second to finish.
pub(super) fn serve(
    listener: TcpListener,
    router: Router,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    let shutdown = shutdown.clone();
    let server =
        axum::serve(listener, router).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    let too_late = async move {
        shutdown.cancelled().await;
        time::sleep(GRACE).await;
    };
    tasks.spawn(async move {
        tokio::select! {
            ended = server => if let Err(error) = ended {
                tracing::error!(%error, "a simulated upstream failed");
            },
            () = too_late => {}
        }
    });
}
