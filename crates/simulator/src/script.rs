//! A server whose every response and message a test sends itself.

use std::{io, net::SocketAddr, sync::Arc};

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Response, StatusCode, Uri, request::Parts},
    response::IntoResponse,
};
use parking_lot::Mutex;
use tokio::{
    net::TcpListener,
    sync::{mpsc, oneshot},
};
use tokio_tungstenite::WebSocketStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::exchange::ExchangePeer;
pub use crate::upgrade::Io;
use crate::{serve::serve, upgrade::Upgrade, wait::soon};

mod exchange;

/// A server on a free loopback port.
///
/// It answers HTTP requests by a function and records them, until the runtime ends. WebSocket
/// handshakes wait until the test accepts or rejects them; they are rejected once this is dropped.
pub struct ScriptedServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
    handshakes: tokio::sync::Mutex<mpsc::UnboundedReceiver<Handshake>>,
}

impl ScriptedServer {
    /// Starts a server that answers HTTP requests by `respond`.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start<F>(respond: F) -> io::Result<Self>
    where
        F: Fn(&Parts) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(Mutex::new(Vec::new()));
        let recorded = Arc::clone(&requests);
        let (arrived, handshakes) = mpsc::unbounded_channel();
        let router = Router::new().fallback(async move |mut request: Request| {
            if let Some((upgrade, switching)) = Upgrade::accept(&mut request) {
                return decide(&arrived, request, upgrade, switching).await;
            }
            let (parts, _) = request.into_parts();
            recorded.lock().push(target(&parts.uri).to_owned());
            respond(&parts)
        });
        serve(listener, router, &TaskTracker::new(), &CancellationToken::new());
        Ok(Self { address, requests, handshakes: tokio::sync::Mutex::new(handshakes) })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the paths and queries of the HTTP requests so far, oldest first.
    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().clone()
    }

    /// Waits for the next WebSocket handshake.
    ///
    /// # Panics
    ///
    /// When none arrives in time.
    pub async fn handshake(&self) -> Handshake {
        let handshake = async { self.handshakes.lock().await.recv().await };
        soon(handshake).await.expect("the server runs until the runtime ends")
    }
}

/// A WebSocket handshake without a response so far.
pub struct Handshake {
    /// The headers of the request.
    pub headers: HeaderMap,
    /// The path and query of the request.
    pub target: String,
    upgrade: Upgrade,
    switching: Response<Body>,
    respond: oneshot::Sender<Response<Body>>,
}

impl Handshake {
    /// Accepts the handshake.
    ///
    /// # Panics
    ///
    /// When the client has disconnected.
    pub async fn accept(self) -> WebSocketStream<Io> {
        self.respond.send(self.switching).expect("the client waits for a response");
        soon(self.upgrade.socket()).await.expect("the client completes the handshake")
    }

    /// Responds with a status and headers instead of a WebSocket.
    ///
    /// # Panics
    ///
    /// When the client has disconnected, or the status or a header is invalid.
    pub fn reject(self, status: u16, headers: &[(&'static str, &str)]) {
        let mut response = StatusCode::from_u16(status).expect("a valid status").into_response();
        for (name, value) in headers {
            let value = HeaderValue::from_str(value).expect("a valid header");
            response.headers_mut().insert(*name, value);
        }
        self.respond.send(response).expect("the client waits for a response");
    }
}

/// Hands a handshake to the test and returns the response that the test decides on.
async fn decide(
    arrived: &mpsc::UnboundedSender<Handshake>,
    request: Request,
    upgrade: Upgrade,
    switching: Response<Body>,
) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let (respond, response) = oneshot::channel();
    let target = target(&parts.uri).to_owned();
    let handshake = Handshake { headers: parts.headers, target, upgrade, switching, respond };
    if arrived.send(handshake).is_err() {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    // A handshake that the test drops is rejected.
    response.await.unwrap_or_else(|_| StatusCode::SERVICE_UNAVAILABLE.into_response())
}

fn target(uri: &Uri) -> &str {
    uri.path_and_query().map_or("/", |target| target.as_str())
}
