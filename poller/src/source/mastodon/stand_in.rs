//! Servers for tests, which decide every response and message.

use axum::{
    body::Body,
    http::{HeaderMap, Response, StatusCode, request::Parts},
    response::IntoResponse as _,
};
use domain::clock::Clock;
use futures_util::{SinkExt, StreamExt};
use jiff::Timestamp;
use serde_json::{Value, json};
use simulator::script::{Io, ScriptedServer};
use tokio::sync::mpsc;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use url::Url;

use super::{
    api::Api,
    session::{Out, SessionEvent},
};
use crate::outside::Outside;

/// Returns the real network and time.
pub(super) fn outside() -> Outside {
    Outside::real("Headwater/test (+https://example.org)", &[]).expect("a client")
}

/// The REST interface of a scripted server.
pub(super) struct Rest {
    pub(super) base: Url,
    server: ScriptedServer,
}

impl Rest {
    /// Starts a server that answers requests by `answer`, which gets the path and query.
    pub(super) async fn serve<F>(answer: F) -> Self
    where
        F: Fn(&str, &HeaderMap) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let respond = move |request: &Parts| {
            let target = request.uri.path_and_query().map_or("/", |target| target.as_str());
            answer(target, &request.headers)
        };
        let server = ScriptedServer::start(respond).await.expect("a port");
        let base = format!("http://{}", server.address());
        Self { base: base.parse().expect("a URL"), server }
    }

    /// Returns a client of the server.
    pub(super) fn api(&self) -> Api {
        Api::new(self.base.clone(), None, outside())
    }

    /// Returns a client for which it is always `now`.
    pub(super) fn api_at(&self, now: Timestamp) -> Api {
        let outside = Outside { clock: Clock::new(move || now), ..outside() };
        Api::new(self.base.clone(), None, outside)
    }

    /// Returns the paths and queries of all requests.
    pub(super) fn asked(&self) -> Vec<String> {
        self.server.requests()
    }
}

/// Makes a response.
pub(super) fn answer(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).expect("an answer")
}

/// Makes a status that was written at `at`, with an id in Mastodon's format.
pub(super) fn status(at: jiff::Timestamp, changes: &Value) -> Value {
    let id = super::snowflake::id(at);
    let mut json = json!({
        "uri": format!("https://origin.example/{id}"),
        "id": id,
        "created_at": at.to_string(),
        "visibility": "public",
        "content": "<p>Hello</p>",
        "account": {"acct": "ana"},
    });
    for (key, value) in changes.as_object().expect("an object") {
        json[key] = value.clone();
    }
    json
}

/// Makes the output of a session, and the receiver of its events.
pub(super) fn out() -> (Out, mpsc::Receiver<SessionEvent>) {
    let (said, received) = mpsc::channel(10_000);
    (Out::new(said, Clock::new(Timestamp::now), None), received)
}

/// The streaming interface of a scripted server.
pub(super) struct Streaming {
    server: ScriptedServer,
    pub(super) url: Url,
}

impl Streaming {
    pub(super) async fn bind() -> Self {
        let respond = |_: &Parts| StatusCode::NOT_FOUND.into_response();
        let server = ScriptedServer::start(respond).await.expect("a port");
        let url = format!("ws://{}/api/v1/streaming", server.address());
        Self { server, url: url.parse().expect("a URL") }
    }

    /// Accepts a client. Returns it with the headers of its request.
    pub(super) async fn accept(&self) -> (Client, Vec<(String, String)>) {
        let handshake = self.server.handshake().await;
        let headers = handshake
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap_or_default().to_owned()))
            .collect();
        (Client { socket: handshake.accept().await }, headers)
    }

    /// Rejects a client.
    pub(super) async fn refuse(&self, status: u16) {
        let handshake = self.server.handshake().await;
        handshake.reject(status, &[("x-error-message", "Invalid access token")]);
    }
}

/// A client of the streaming interface.
pub(super) struct Client {
    pub(super) socket: WebSocketStream<Io>,
}

impl Client {
    /// Sends an event.
    pub(super) async fn send(&mut self, event: &str, payload: &str) {
        let text = json!({"stream": ["public"], "event": event, "payload": payload}).to_string();
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    /// Waits for the next message of the client.
    pub(super) async fn next(&mut self) -> Message {
        self.socket.next().await.expect("a message").expect("a message")
    }
}
