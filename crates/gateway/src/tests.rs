//! The gateway from outside: real sockets in front, functions of the test behind.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time,
};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};
use tokio_util::sync::CancellationToken;

use crate::{
    Authorizer, Callbacks, Config, FaultRates, FunctionError, Functions, Gateway, GatewayLimits,
    HttpRoutes, IdentitySource, PostError, Rate, Routes, Sockets,
};

mod fault_rates;
mod handshake;
mod http_api;
mod management;
mod messages;
mod posting;
mod strangers;
mod time_limits;

const PATIENCE: Duration = Duration::from_secs(10);

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Outcome = Result<Bytes, FunctionError>;
type Handler = Arc<dyn Fn(Value) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Functions that answer as the test says, by default with status 200, and remember their events.
#[derive(Default)]
struct Fake {
    handlers: Mutex<HashMap<String, Handler>>,
    events: watch::Sender<Vec<(String, String)>>,
}

impl Functions for Fake {
    fn invoke<'a>(&'a self, function: &'a str, event: Bytes) -> BoxFuture<'a, Outcome> {
        let text = String::from_utf8(event.to_vec()).expect("events are text");
        let event = serde_json::from_str(&text).expect("events are JSON");
        self.events.send_modify(|events| events.push((function.to_owned(), text)));
        match self.handlers.lock().get(function) {
            Some(handler) => handler(event),
            None => std::future::ready(answer(json!({"statusCode": 200}))).boxed(),
        }
    }
}

impl Fake {
    fn on(&self, function: &str, handler: impl Fn(Value) -> Outcome + Send + Sync + 'static) {
        self.on_async(function, move |event| std::future::ready(handler(event)).boxed());
    }

    fn on_async(
        &self,
        function: &str,
        handler: impl Fn(Value) -> BoxFuture<'static, Outcome> + Send + Sync + 'static,
    ) {
        self.handlers.lock().insert(function.to_owned(), Arc::new(handler));
    }

    fn seen(&self, function: &str) -> Vec<String> {
        let events = self.events.borrow();
        events.iter().filter(|(name, _)| name == function).map(|(_, text)| text.clone()).collect()
    }

    /// Waits for the n-th event of a function, counted from 1.
    async fn event(&self, function: &str, n: usize) -> String {
        let mut events = self.events.subscribe();
        let enough = |events: &Vec<(String, String)>| {
            events.iter().filter(|(name, _)| name == function).count() >= n
        };
        let waited = time::timeout(PATIENCE, events.wait_for(enough)).await;
        drop(waited.unwrap_or_else(|_| panic!("{function} got no event {n}")));
        self.seen(function)[n - 1].clone()
    }
}

#[expect(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "reads well in tests")]
fn answer(answer: Value) -> Outcome {
    Ok(answer.to_string().into())
}

fn failure(message: &str) -> Outcome {
    Err(FunctionError::Handled { error_type: "Error".to_owned(), message: message.to_owned() })
}

/// A gateway with the routes `$connect`, `$disconnect`, `$default`, `one` and the two-way `two`.
struct Fixture {
    gateway: Gateway,
    fake: Arc<Fake>,
    shutdown: CancellationToken,
}

impl Fixture {
    fn new() -> Self {
        Self::with(|_| {}, GatewayLimits::default())
    }

    fn with_limits(limits: GatewayLimits) -> Self {
        Self::with(|_| {}, limits)
    }

    fn with(change: impl FnOnce(&mut Config), limits: GatewayLimits) -> Self {
        Self::start(change, Sockets::new(limits))
    }

    fn with_faults(faults: FaultRates) -> Self {
        Self::start(|_| {}, Sockets::new(GatewayLimits::default()).with_faults(faults))
    }

    fn start(change: impl FnOnce(&mut Config), sockets: Sockets) -> Self {
        let mut config = Config::new(SocketAddr::from(([127, 0, 0, 1], 0)));
        config.routes = Routes::default()
            .with("$connect", "connect")
            .with("$disconnect", "disconnect")
            .with("$default", "default")
            .with("one", "one")
            .with_two_way("two", "two");
        change(&mut config);
        let fake = Arc::new(Fake::default());
        let shutdown = CancellationToken::new();
        let gateway = Gateway::start(config, Arc::new(sockets), fake.clone(), shutdown.clone());
        Self { gateway: gateway.expect("a free port"), fake, shutdown }
    }

    fn url(&self) -> String {
        format!("ws://{}/live", self.gateway.address())
    }

    async fn connect(&self) -> Client {
        connect_async(self.url()).await.expect("101").0
    }

    /// Connects, and returns the connection's id too.
    async fn connect_with_id(&self) -> (Client, String) {
        let n = self.fake.seen("connect").len() + 1;
        let client = self.connect().await;
        let event = self.fake.event("connect", n).await;
        let id = field(&event, "connectionId");
        self.registered(&id).await;
        (client, id)
    }

    /// The 101 can reach the client a moment before the connection takes posts.
    async fn registered(&self, id: &str) {
        until("the connection is registered", || self.gateway.sockets().find(id).is_some()).await;
    }

    /// Sends the head of a request and returns the response's status line, head and body.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.gateway.address()).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        read_response(&mut stream).await
    }

    /// A WebSocket for sending bytes that no client library sends.
    async fn raw_socket(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.gateway.address()).await.expect("a connection");
        stream.write_all(upgrade("/live", "").as_bytes()).await.expect("written");
        let (status, _) = read_response(&mut stream).await;
        assert_eq!(status, 101);
        stream
    }
}

/// Posts to a client that does not read until it takes no more.
fn fill(sockets: &Sockets, id: &str) {
    let message = vec![b'x'; 30_000];
    let is_full = |_| sockets.post_to(id, &message).is_err();
    assert!((0..2_000).any(is_full), "the client's buffer never filled");
}

/// The head of a handshake.
fn upgrade(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: DM+9PqsQtaZrN+IMZbWTzg==\r\n{headers}\r\n"
    )
}

/// Reads one response, as far as its head says.
async fn read_response(stream: &mut TcpStream) -> (u16, String) {
    let mut text = String::new();
    let read = async {
        loop {
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                if body.len() >= length.map_or(0, |length| length.parse().expect("a number")) {
                    return;
                }
            }
            // Byte by byte, so that nothing after the head of a 101 is lost.
            let byte = stream.read_u8().await.expect("a response");
            text.push(char::from(byte));
        }
    };
    time::timeout(PATIENCE, read).await.expect("a response in time");
    let status = text.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, text)
}

/// The status with which a handshake is refused.
async fn refusal(request: impl IntoClientRequest + Unpin) -> u16 {
    match connect_async(request).await {
        Err(Error::Http(response)) => response.status().as_u16(),
        Ok(_) => panic!("the handshake was accepted"),
        Err(error) => panic!("{error}"),
    }
}

async fn next(client: &mut Client) -> Message {
    let message = time::timeout(PATIENCE, client.next()).await.expect("a message in time");
    message.expect("the connection is open").expect("a valid message")
}

async fn next_text(client: &mut Client) -> String {
    match next(client).await {
        Message::Text(text) => text.to_string(),
        other => panic!("no text but {other:?}"),
    }
}

/// The code and reason the gateway closes with.
async fn next_close(client: &mut Client) -> (u16, String) {
    match next(client).await {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("no close but {other:?}"),
    }
}

async fn send(client: &mut Client, text: &str) {
    client.send(Message::text(text)).await.expect("sent");
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            time::sleep(Duration::from_millis(2)).await;
        }
    };
    time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

/// A field of `requestContext`, as text.
fn field(event: &str, name: &str) -> String {
    let event: Value = serde_json::from_str(event).expect("JSON");
    match &event["requestContext"][name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Replaces what differs from run to run by the field's name.
fn redact(event: &str) -> String {
    let fields = [
        "connectionId",
        "requestId",
        "extendedRequestId",
        "messageId",
        "requestTime",
        "requestTimeEpoch",
        "connectedAt",
        "X-Amzn-Trace-Id",
        "x-amzn-trace-id",
        "X-Forwarded-Port",
        "x-forwarded-port",
        "integrationLatency",
        "time",
        "timeEpoch",
    ];
    let mut out = event.to_owned();
    for name in fields {
        let (before, list) = (format!("\"{name}\":"), format!("\"{name}\":["));
        let mut from = 0;
        while let Some(at) = out[from..].find(&before).map(|at| from + at) {
            let skip = if out[at..].starts_with(&list) { list.len() } else { before.len() };
            let value = &out[at + skip..];
            let end = match value.strip_prefix('"') {
                Some(text) => text.find('"').expect("a closing quote") + 2,
                None => value.find([',', '}']).expect("an end"),
            };
            out.replace_range(at + skip..at + skip + end, "*");
            from = at + skip;
        }
    }
    out
}
