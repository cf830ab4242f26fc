//! Tests of the gateway with real sockets, and with functions that the tests provide.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{FutureExt, SinkExt, StreamExt, future::BoxFuture};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    time,
};
use tokio_tungstenite::tungstenite::{Error, Message, client::IntoClientRequest};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, client_async, connect_async};
use tokio_util::sync::CancellationToken;

use crate::{
    Authorizer, Callbacks, Config, FaultRates, FunctionError, Functions, Gateway, GatewayLimits,
    Hosts, HttpRoutes, IdentitySource, PostError, Rate, Routes, Sockets,
};

mod abuse;
mod doors;
mod fault_rates;
mod handshake;
mod http_api;
mod management;
mod messages;
mod posting;
mod time_limits;

const PATIENCE: Duration = Duration::from_secs(10);

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;
type Outcome = Result<Bytes, FunctionError>;
type Handler = Arc<dyn Fn(Value) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Functions that record their events, and respond with status 200 or as the test defines.
#[derive(Default)]
struct FakeFunctions {
    handlers: Mutex<HashMap<String, Handler>>,
    events: watch::Sender<Vec<(String, String)>>,
}

impl Functions for FakeFunctions {
    fn invoke<'a>(&'a self, function: &'a str, event: Bytes) -> BoxFuture<'a, Outcome> {
        let text = String::from_utf8(event.to_vec()).expect("events are text");
        let event = serde_json::from_str(&text).expect("events are JSON");
        self.events.send_modify(|events| events.push((function.to_owned(), text)));
        match self.handlers.lock().get(function) {
            Some(handler) => handler(event),
            None => responds(json!({"statusCode": 200}))(event),
        }
    }
}

impl FakeFunctions {
    /// Sets the handler of a function.
    fn set(&self, function: &str, handler: Handler) {
        self.handlers.lock().insert(function.to_owned(), handler);
    }

    /// Sets the handler of a function that responds immediately.
    fn on(&self, function: &str, handler: impl Fn(Value) -> Outcome + Send + Sync + 'static) {
        self.set(function, Arc::new(move |event| std::future::ready(handler(event)).boxed()));
    }

    /// Makes a function wait for a permit before each response.
    fn hold(&self, function: &str) -> Arc<Semaphore> {
        let permits = Arc::new(Semaphore::new(0));
        let held = permits.clone();
        let handler: Handler = Arc::new(move |_| {
            let permits = held.clone();
            async move {
                permits.acquire().await.expect("the semaphore is open").forget();
                response(json!({"statusCode": 200}))
            }
            .boxed()
        });
        self.set(function, handler);
        permits
    }

    /// Returns the events that a function has received so far.
    fn events_of(&self, function: &str) -> Vec<String> {
        let events = self.events.borrow();
        events.iter().filter(|(name, _)| name == function).map(|(_, text)| text.clone()).collect()
    }

    /// Waits for the nth event of a function, counted from 1.
    async fn event(&self, function: &str, n: usize) -> String {
        let mut events = self.events.subscribe();
        let enough = |events: &Vec<(String, String)>| {
            events.iter().filter(|(name, _)| name == function).count() >= n
        };
        let waited = time::timeout(PATIENCE, events.wait_for(enough)).await;
        drop(waited.unwrap_or_else(|_| panic!("{function} did not receive event {n}")));
        self.events_of(function)[n - 1].clone()
    }
}

#[expect(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "reads well in tests")]
fn response(response: Value) -> Outcome {
    Ok(response.to_string().into())
}

fn failure(message: &str) -> Outcome {
    Err(FunctionError::Handled { error_type: "Error".to_owned(), message: message.to_owned() })
}

fn responds(value: Value) -> Handler {
    Arc::new(move |_| std::future::ready(response(value.clone())).boxed())
}

fn fails(message: &'static str) -> Handler {
    Arc::new(move |_| std::future::ready(failure(message)).boxed())
}

fn times_out() -> Handler {
    Arc::new(|_| std::future::ready(Err(FunctionError::Timeout)).boxed())
}

fn never_responds() -> Handler {
    Arc::new(|_| std::future::pending().boxed())
}

/// A gateway with the routes `$connect`, `$disconnect`, `$default`, `one` and the two-way `two`.
struct Fixture {
    gateway: Gateway,
    fake: Arc<FakeFunctions>,
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
        let fake = Arc::new(FakeFunctions::default());
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

    /// Connects a client, and returns it with the id of its connection.
    async fn connect_with_id(&self) -> (Client, String) {
        let n = self.fake.events_of("connect").len() + 1;
        let client = self.connect().await;
        let event = self.fake.event("connect", n).await;
        let id = field(&event, "connectionId");
        self.wait_until_registered(&id).await;
        (client, id)
    }

    /// Waits until a connection accepts posts. Its client can receive the status 101 before.
    async fn wait_until_registered(&self, id: &str) {
        until("the connection is registered", || self.gateway.sockets().find(id).is_some()).await;
    }

    /// Sends a request, and returns the status and the text of the response.
    async fn raw(&self, request: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.gateway.address()).await.expect("a connection");
        stream.write_all(request.as_bytes()).await.expect("written");
        read_response(&mut stream).await
    }

    /// Opens a WebSocket for bytes that no client library sends.
    async fn raw_socket(&self) -> TcpStream {
        let mut stream = TcpStream::connect(self.gateway.address()).await.expect("a connection");
        stream.write_all(upgrade("/live", "").as_bytes()).await.expect("written");
        let (status, _) = read_response(&mut stream).await;
        assert_eq!(status, 101);
        stream
    }
}

/// Posts to a client that does not read, until its buffer is full.
fn fill(sockets: &Sockets, id: &str) {
    let message = vec![b'x'; 30_000];
    let is_full = |_| sockets.post_to(id, &message).is_err();
    assert!((0..2_000).any(is_full), "the client's buffer never filled");
}

/// Returns the head of a handshake.
fn upgrade(path: &str, headers: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: DM+9PqsQtaZrN+IMZbWTzg==\r\n{headers}\r\n"
    )
}

/// Reads one response with its body.
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
            // Reads byte by byte, so that the frames after a 101 remain in the stream.
            let byte = stream.read_u8().await.expect("a response");
            text.push(char::from(byte));
        }
    };
    time::timeout(PATIENCE, read).await.expect("a response in time");
    let status = text.split(' ').nth(1).expect("a status").parse().expect("a number");
    (status, text)
}

/// Returns the status with which a handshake is rejected.
async fn rejection(request: impl IntoClientRequest + Unpin) -> u16 {
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
        other => panic!("expected text, received {other:?}"),
    }
}

/// Returns the code and the reason of the next message, which must be a close frame.
async fn next_close(client: &mut Client) -> (u16, String) {
    match next(client).await {
        Message::Close(Some(frame)) => (frame.code.into(), frame.reason.to_string()),
        other => panic!("expected a close frame, received {other:?}"),
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
    time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("timed out: {what}"));
}

/// Returns a field of `requestContext` as text.
fn field(event: &str, name: &str) -> String {
    let event: Value = serde_json::from_str(event).expect("JSON");
    match &event["requestContext"][name] {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// Replaces the values of fields that differ from run to run by `*`.
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
        let before = format!("\"{name}\":");
        let list = format!("{before}[");
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
