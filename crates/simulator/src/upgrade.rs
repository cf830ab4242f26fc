//! The server's side of the WebSocket handshake, on a port that also serves REST.

use axum::{
    body::Body,
    http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header},
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};

/// The stream below a WebSocket after the handshake.
pub type Io = TokioIo<Upgraded>;

/// The size of the largest message that a client may send.
const LARGEST_MESSAGE: usize = 1 << 20;

/// A handshake whose response the HTTP server has not sent yet.
pub(super) struct Upgrade(OnUpgrade);

impl Upgrade {
    /// Returns the upgrade and the response to an upgrade request, or `None` for other requests.
    pub(super) fn accept(request: &mut Request<Body>) -> Option<(Self, Response<Body>)> {
        let headers = request.headers();
        let is_upgrade = headers
            .get(header::UPGRADE)
            .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let key = headers.get(header::SEC_WEBSOCKET_KEY).filter(|_| is_upgrade)?;
        let accept = HeaderValue::try_from(derive_accept_key(key.as_bytes())).ok()?;
        let upgrade = request.extensions_mut().remove::<OnUpgrade>()?;

        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers: &mut HeaderMap = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, accept);
        Some((Self(upgrade), response))
    }

    /// Returns the socket once the response is sent.
    pub(super) async fn socket(self) -> Result<WebSocketStream<Io>, hyper::Error> {
        let io = TokioIo::new(self.0.await?);
        let config = WebSocketConfig::default().max_message_size(Some(LARGEST_MESSAGE));
        Ok(WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await)
    }
}
