//! The parts that both simulated upstreams have in common: connections, and the routes that control them.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::{get, post, put},
};
use clap::ValueEnum;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    faults::{Fault, Switch},
    mangler::Mangler,
    session::{Conversation, Session, Timing},
    stats::Stats,
    upgrade::Upgrade,
};

/// The number of messages of clients that are kept.
const RECORDED: usize = 1_000;

/// The connections of one upstream, and their controls.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) switch: Switch,
    pub(super) stats: Stats,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    seed: u64,
    connections: AtomicU64,
    received: Mutex<VecDeque<String>>,
}

impl Host {
    pub(super) fn new(
        seed: u64,
        switch: Switch,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        Self {
            switch,
            stats: Stats::default(),
            tasks,
            shutdown,
            seed,
            connections: AtomicU64::new(0),
            received: Mutex::default(),
        }
    }

    /// Returns the mangler of the next connection. Each has its own sequence of faults.
    pub(super) fn mangler(&self) -> Mangler {
        let nth = self.connections.fetch_add(1, Ordering::Relaxed);
        Mangler::new(self.seed.wrapping_add(nth))
    }

    /// Records a message that a client has sent.
    pub(super) fn record(&self, text: &str) {
        let mut received = self.received.lock();
        received.push_back(text.to_owned());
        if received.len() > RECORDED {
            received.pop_front();
        }
    }

    /// Returns the newest messages that clients have sent, oldest first.
    pub(super) fn received(&self) -> Vec<String> {
        self.received.lock().iter().cloned().collect()
    }

    /// Drops every open connection. Their subscriptions are no longer counted.
    pub(super) fn drop_connections(&self) {
        self.stats.forget_subscriptions();
        self.switch.drop_connections();
    }

    /// Serves a client after its handshake.
    pub(super) fn serve<C: Conversation + 'static>(
        self: Arc<Self>,
        upgrade: Upgrade,
        conversation: C,
        events: broadcast::Receiver<C::Event>,
        timing: Timing,
    ) {
        let tasks = self.tasks.clone();
        tasks.spawn(async move {
            let Some(Ok(socket)) = self.shutdown.run_until_cancelled(upgrade.socket()).await else {
                return;
            };
            let shutdown = self.shutdown.clone();
            let signals = self.switch.signals();
            let mangler = self.mangler();
            let stats = &self.stats;
            Session { socket, conversation, events, signals, stats, timing, mangler, shutdown }
                .run()
                .await;
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
    host.drop_connections();
    StatusCode::NO_CONTENT
}

async fn stats(State(host): State<Arc<Host>>) -> Json<Value> {
    Json(host.stats.to_json())
}
