//! A server to test against, on a port of its own.

use axum::{
    body::Body,
    http::{HeaderMap, Response, StatusCode, request::Parts},
    response::IntoResponse as _,
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use simulator::script::{Io, ScriptedServer};
use tokio::sync::mpsc;
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use url::Url;

use super::{
    api::Api,
    session::{Out, SessionEvent},
};

/// A server's REST interface.
pub(super) struct Rest {
    pub(super) base: Url,
    server: ScriptedServer,
}

impl Rest {
    /// Answers requests by path and query.
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

    /// A client of it.
    pub(super) fn api(&self) -> Api {
        Api::new(self.base.clone(), None, "Headwater/test (+https://example.org)")
            .expect("a client")
    }

    /// What was asked.
    pub(super) fn asked(&self) -> Vec<String> {
        self.server.requests()
    }
}

/// An answer of a REST interface.
pub(super) fn answer(status: u16, body: &Value) -> Response<Body> {
    Response::builder().status(status).body(Body::from(body.to_string())).expect("an answer")
}

/// A status that was written at `at` and has an id of Mastodon's kind.
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

/// Where a session says what it has to say, and what hears it.
pub(super) fn out() -> (Out, mpsc::Receiver<SessionEvent>) {
    let (said, received) = mpsc::channel(10_000);
    (Out::new(said, None), received)
}

/// A server's streaming interface.
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

    /// Accepts a client, and returns the headers it came with.
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

/// A client of a streaming interface.
pub(super) struct Client {
    pub(super) socket: WebSocketStream<Io>,
}

impl Client {
    /// Sends an event.
    pub(super) async fn send(&mut self, event: &str, payload: &str) {
        let text = json!({"stream": ["public"], "event": event, "payload": payload}).to_string();
        self.socket.send(Message::text(text)).await.expect("sent");
    }

    /// What the client sends next.
    pub(super) async fn next(&mut self) -> Message {
        self.socket.next().await.expect("a message").expect("a message")
    }
}
