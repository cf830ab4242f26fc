//! The part of API Gateway that applications see: a WebSocket API, its management API
//! (`@connections`) and an HTTP API, in front of functions that are invoked with the same events.
//!
//! It knows routes and names of functions, and nothing of what they are for.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, watch},
    task::JoinHandle,
    time,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

mod authorizer;
mod clock;
mod connection;
mod decode;
mod encode;
mod events;
mod faults;
mod functions;
mod handshake;
mod http_api;
mod http_routes;
mod ids;
mod invocation;
mod limits;
mod management;
mod messages;
mod policy;
mod post_error;
mod proxy;
mod request;
mod respond;
mod routes;
mod server;
mod socket;
mod sockets;
mod spelling;
pub mod template;
#[cfg(test)]
mod tests;

pub use self::{
    authorizer::{Authorizer, IdentitySource},
    faults::Faults,
    functions::{FunctionError, Functions},
    http_routes::{HttpRoute, HttpRoutes, RouteKey, RouteKeyError},
    limits::{Limits, Rate},
    post_error::PostError,
    routes::{Route, Routes, Selection, SelectionError},
    sockets::Sockets,
};

/// What a gateway serves and where.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address to listen at. Port 0 takes a free one.
    pub listen: SocketAddr,
    /// How the API is called in events and policies.
    pub api: Api,
    /// The function for each route of the WebSocket API. A route that is missing is skipped:
    /// without `$connect` every handshake is accepted.
    pub routes: Routes,
    /// How a message names its route.
    pub selection: Selection,
    /// Who decides about handshakes. None admits everyone to `$connect`.
    pub authorizer: Option<Authorizer>,
    /// The HTTP API beside the WebSocket API. Paths without a route are not found.
    pub http: HttpRoutes,
    /// What events call the gateway's host, where that is not what clients call it: behind a load
    /// balancer, the address where this very gateway takes calls of the management API.
    pub domain: Option<String>,
    /// Whether proxies on this machine are believed about where a request comes from, as the last
    /// entry of `X-Forwarded-For` says.
    pub trusts_proxies: bool,
    /// Who may call the management API.
    pub callbacks: Callbacks,
    /// Whether what is behind the gateway can serve. Until then `/healthz` answers 503.
    pub ready: watch::Receiver<bool>,
}

impl Config {
    /// A gateway at `listen` that is ready, accepts everyone and has no routes yet.
    pub fn new(listen: SocketAddr) -> Self {
        Self {
            listen,
            api: Api::default(),
            routes: Routes::default(),
            selection: Selection::default(),
            authorizer: None,
            http: HttpRoutes::default(),
            domain: None,
            trusts_proxies: false,
            callbacks: Callbacks::default(),
            // The value stays when its sender is gone.
            ready: watch::channel(true).1,
        }
    }
}

/// The identity of an API on AWS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Api {
    /// The API's id.
    pub id: String,
    /// The stage of the WebSocket API, which is also its path: clients connect to `/{stage}`.
    pub stage: String,
    /// The region in ARNs.
    pub region: String,
    /// The account in ARNs.
    pub account: String,
}

impl Default for Api {
    fn default() -> Self {
        Self {
            id: "local".to_owned(),
            stage: "live".to_owned(),
            region: "us-east-1".to_owned(),
            account: "123456789012".to_owned(),
        }
    }
}

impl Api {
    /// The `methodArn` of a handshake.
    fn connect_arn(&self) -> String {
        let Self { id, stage, region, account } = self;
        format!("arn:aws:execute-api:{region}:{account}:{id}/{stage}/$connect")
    }

    /// The `routeArn` of an HTTP request.
    fn http_arn(&self, method: &str, path: &str) -> String {
        let Self { id, region, account, .. } = self;
        format!("arn:aws:execute-api:{region}:{account}:{id}/$default/{method}{path}")
    }
}

/// Who may call the management API. On AWS IAM decides, and every call is signed; this gateway
/// verifies no signature, so it looks at where a call comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Callbacks {
    /// Nobody: all calls get 403. Functions in the same process post through [`Sockets`].
    Off,
    /// Callers on this machine, unless a proxy forwards their call.
    #[default]
    Loopback,
    /// Everyone who reaches the listening address.
    Everyone,
}

/// A running gateway.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    sockets: Arc<Sockets>,
    task: JoinHandle<()>,
}

/// What the tasks of a gateway share.
struct Shared {
    config: Config,
    functions: Arc<dyn Functions>,
    sockets: Arc<Sockets>,
    tasks: TaskTracker,
    /// Turns of the handshakes that the functions work on.
    handshakes: Arc<Semaphore>,
    /// Places of TCP connections.
    places: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Gateway {
    /// Listens, and serves until `shutdown` is cancelled. Connections then get close code 1001 and
    /// `$disconnect` runs for each, within the grace period of the limits.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened at.
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
        info!(%address, stage = config.api.stage, "gateway listens");
        let tasks = TaskTracker::new();
        let handshakes = Arc::new(Semaphore::new(sockets.limits().handshakes));
        let places = Arc::new(Semaphore::new(sockets.limits().connections));
        let shared = Shared {
            config,
            functions,
            sockets: sockets.clone(),
            tasks,
            handshakes,
            places,
            shutdown,
        };
        let task = tokio::spawn(run(Arc::new(shared), listener));
        Ok(Self { address, sockets, task })
    }

    /// Returns the address it listens at.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the table of its connections.
    pub fn sockets(&self) -> Arc<Sockets> {
        self.sockets.clone()
    }

    /// Waits until the gateway has stopped.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            warn!(%error, "gateway broke");
        }
    }
}

async fn run(shared: Arc<Shared>, listener: tokio::net::TcpListener) {
    tokio::select! {
        () = server::accept(&shared, listener) => {}
        () = close_overdue(&shared.sockets) => {}
    }
    shared.sockets.close_all();
    shared.tasks.close();
    // Connections drain for one grace period, and what `$disconnect` began may take another.
    let grace = shared.sockets.limits().grace * 2;
    if time::timeout(grace, shared.tasks.wait()).await.is_err() {
        warn!(tasks = shared.tasks.len(), "gateway stopped before its tasks did");
    }
}

/// Enforces the time limits. One task for all connections, since they are long and need no precision.
async fn close_overdue(sockets: &Sockets) {
    let limits = sockets.limits();
    let shortest = limits.idle.min(limits.lifetime);
    let period = (shortest / 20).clamp(Duration::from_millis(1), Duration::from_secs(1));
    let mut ticks = time::interval(period);
    ticks.set_missed_tick_behavior(time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        sockets.close_overdue();
    }
}
