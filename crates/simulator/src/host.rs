//! What both simulated upstreams share: their connections, and the routes that control them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use clap::ValueEnum;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    faults::{Fault, Switch},
    mangler::Mangler,
    session::{Feed, Session, Timing},
    stats::Stats,
    upgrade::Upgrade,
};

/// The connections of one upstream and what rules them.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) switch: Switch,
    pub(super) stats: Stats,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    seed: u64,
    connections: AtomicU64,
}

impl Host {
    pub(super) fn new(
        seed: u64,
        switch: Switch,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let connections = AtomicU64::new(0);
        Self { switch, stats: Stats::default(), tasks, shutdown, seed, connections }
    }

    /// Returns the mangler of the next connection; each has its own sequence of mishaps.
    pub(super) fn mangler(&self) -> Mangler {
        let nth = self.connections.fetch_add(1, Ordering::Relaxed);
        Mangler::new(self.seed.wrapping_add(nth))
    }

    /// Serves a client from the moment its handshake is through.
    pub(super) fn serve<F: Feed + 'static>(
        self: Arc<Self>,
        upgrade: Upgrade,
        feed: F,
        events: broadcast::Receiver<F::Event>,
        timing: Timing,
    ) {
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let Some(Ok(socket)) = self.shutdown.run_until_cancelled(upgrade.socket()).await else {
                return;
            };
            let shutdown = self.shutdown.clone();
            let (switch, stats, mangler) = (&self.switch, &self.stats, self.mangler());
            Session { socket, feed, events, switch, stats, timing, mangler, shutdown }.run().await;
        });
    }
}

/// Returns the routes under `/_simulator` that every upstream has.
pub(super) fn controls(host: Arc<Host>) -> Router {
    Router::new()
        .route("/_simulator/faults", get(faults))
        .route("/_simulator/faults/{name}", put(switch_on).delete(switch_off))
        .route("/_simulator/drop", post(drop_all))
        .route("/_simulator/stats", get(stats))
        .with_state(host)
}

async fn faults(State(host): State<Arc<Host>>) -> Json<Value> {
    Json(json!({"active": host.switch.active().names()}))
}

async fn switch_on(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, StatusCode> {
    let fault = Fault::from_str(&name, false).map_err(|_| StatusCode::NOT_FOUND)?;
    host.switch.set(fault, true);
    Ok(faults(State(host)).await)
}

async fn switch_off(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, StatusCode> {
    let fault = Fault::from_str(&name, false).map_err(|_| StatusCode::NOT_FOUND)?;
    host.switch.set(fault, false);
    Ok(faults(State(host)).await)
}

async fn drop_all(State(host): State<Arc<Host>>) -> StatusCode {
    host.switch.drop_connections();
    StatusCode::NO_CONTENT
}

async fn stats(State(host): State<Arc<Host>>) -> Json<Value> {
    Json(host.stats.to_json())
}
