//! A server to test against, on a port of its own.

use std::sync::{Arc, Mutex};

use axum::{
    body::Body,
    http::{HeaderMap, Response, Uri},
};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{ErrorResponse, Request, Response as Upgraded},
    },
};
use url::Url;

use super::{
    api::Api,
    session::{Out, SessionEvent},
};

/// A server's REST interface.
pub(super) struct Rest {
    pub(super) base: Url,
    /// The requests that came: path and query.
    pub(super) requests: Arc<Mutex<Vec<String>>>,
}

impl Rest {
    /// Answers requests by path and query.
    pub(super) async fn serve<F>(answer: F) -> Self
    where
        F: Fn(&str, &HeaderMap) -> Response<Body> + Clone + Send + Sync + 'static,
    {
        let requests = Arc::new(Mutex::new(Vec::new()));
        let noted = requests.clone();
        let router = axum::Router::new().fallback(move |uri: Uri, headers: HeaderMap| async move {
            let asked = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
            noted.lock().expect("not poisoned").push(asked.clone());
            answer(&asked, &headers)
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let base = format!("http://{}", listener.local_addr().expect("an address"));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { base: base.parse().expect("a URL"), requests }
    }

    /// A client of it.
    pub(super) fn api(&self) -> Api {
        Api::new(self.base.clone(), None, "Headwater/test (+https://example.org)")
            .expect("a client")
    }

    /// What was asked.
    pub(super) fn asked(&self) -> Vec<String> {
        self.requests.lock().expect("not poisoned").clone()
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

/// The public timeline that has `statuses`, newest first, as a server pages it.
pub(super) fn timeline(statuses: &[Value], asked: &str) -> Value {
    let min_id = asked.split(['?', '&']).find_map(|pair| pair.strip_prefix("min_id="));
    let is_newer = |status: &&Value| {
        let id = status["id"].as_str().expect("an id");
        min_id.is_none_or(|min| (id.len(), id) > (min.len(), min))
    };
    let newer: Vec<&Value> = statuses.iter().filter(is_newer).collect();
    let first = if min_id.is_some() { newer.len().saturating_sub(40) } else { 0 };
    json!(newer.into_iter().skip(first).take(40).collect::<Vec<_>>())
}

/// Where a session says what it has to say, and what hears it.
pub(super) fn out() -> (Out, mpsc::Receiver<SessionEvent>) {
    let (said, received) = mpsc::channel(10_000);
    (Out::new(said, None), received)
}

/// A server's streaming interface.
pub(super) struct Streaming {
    listener: TcpListener,
    pub(super) url: Url,
}

impl Streaming {
    pub(super) async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("ws://{}/api/v1/streaming", listener.local_addr().expect("an address"));
        Self { listener, url: url.parse().expect("a URL") }
    }

    /// Accepts a client, and returns the headers it came with.
    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    pub(super) async fn accept(&self) -> (Client, Vec<(String, String)>) {
        let (stream, _) = self.listener.accept().await.expect("a client");
        let mut headers = Vec::new();
        let note = |request: &Request, response: Upgraded| {
            headers = request
                .headers()
                .iter()
                .map(|(name, value)| {
                    (name.to_string(), value.to_str().unwrap_or_default().to_owned())
                })
                .collect();
            Ok(response)
        };
        let socket = accept_hdr_async(stream, note).await.expect("a WebSocket");
        (Client { socket }, headers)
    }

    /// Refuses a client.
    #[expect(clippy::result_large_err, reason = "the callback's type is the library's")]
    pub(super) async fn refuse(&self, status: u16) {
        let (stream, _) = self.listener.accept().await.expect("a client");
        let refuse = |_: &Request, _: Upgraded| -> Result<Upgraded, ErrorResponse> {
            Err(tokio_tungstenite::tungstenite::http::Response::builder()
                .status(status)
                .header("x-error-message", "Invalid access token")
                .body(None)
                .expect("an answer"))
        };
        accept_hdr_async(stream, refuse).await.expect_err("refused");
    }
}

/// A client of a streaming interface.
pub(super) struct Client {
    pub(super) socket: WebSocketStream<TcpStream>,
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
