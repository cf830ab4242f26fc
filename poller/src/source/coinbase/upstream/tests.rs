//! Connections to exchanges that a test controls.

use std::sync::atomic::{AtomicU32, Ordering};

use axum::{
    Json,
    http::{StatusCode, request::Parts},
    response::IntoResponse as _,
};
use serde_json::{Value, json};
use simulator::{
    ExchangeServer,
    script::{ExchangePeer, Io, ScriptedServer},
};
use tokio::{io::DuplexStream, task::JoinHandle};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use super::*;
use crate::source::coinbase::recorder::{Recorder, soon};

/// Starts an exchange whose WebSocket messages the test sends.
async fn exchange() -> ScriptedServer {
    let respond = |_: &Parts| StatusCode::NOT_FOUND.into_response();
    ScriptedServer::start(respond).await.expect("a port")
}

/// Waits for the next connection.
async fn accept(exchange: &ScriptedServer) -> ExchangePeer<Io> {
    ExchangePeer::new(exchange.handshake().await.accept().await)
}

/// A running source.
struct Running {
    recorder: Recorder,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Starts a source whose feed is at `exchange`.
    async fn start(exchange: &ScriptedServer, topics: &[&str]) -> Self {
        let rest_url = format!("http://{}", exchange.address());
        Self::start_with(exchange, &rest_url, topics).await
    }

    /// Starts a source whose feed is at `exchange`, with its REST interface at another address.
    async fn start_with(exchange: &ScriptedServer, rest_url: &str, topics: &[&str]) -> Self {
        let url = format!("ws://{}", exchange.address());
        let (upstream, recorder) = upstream(&url, rest_url).await;
        recorder.want(topics);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { upstream.run(&token).await });
        Self { recorder, shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        soon(self.task).await.expect("no panic");
    }
}

async fn upstream(url: &str, rest_url: &str) -> (Upstream, Recorder) {
    let (feed, recorder) = Recorder::start().await;
    let (_, products) = watch::channel(Arc::default());
    let outside = outside();
    let rest = Rest::new(rest_url.parse().expect("a URL"), outside.clone());
    (Upstream::new(feed, rest, products, url.to_owned(), outside), recorder)
}

fn outside() -> Outside {
    Outside::real("headwater/test", &[]).expect("a client")
}

fn trade(kind: &str, id: u64) -> Value {
    json!({"type": kind, "product_id": "BTC-USD", "trade_id": id})
}

fn ticker() -> Value {
    json!({"type": "ticker", "product_id": "BTC-USD"})
}

fn snapshot() -> Value {
    json!({"type": "snapshot", "product_id": "BTC-USD", "asks": [["2", "1"]], "bids": [["1", "1"]]})
}

#[tokio::test]
async fn wanted_topics_are_subscribed_and_messages_are_published() {
    let exchange = exchange().await;
    let mut running = Running::start(&exchange, &[]).await;
    running.recorder.state(State::Live, "idle").await;
    running.recorder.want(&["coinbase/ticker/BTC-USD"]);
    let mut peer = accept(&exchange).await;
    assert_eq!(peer.agree().await, "subscribe BTC-USD heartbeat,ticker");
    running.recorder.state(State::Live, "").await;
    peer.send(&ticker()).await;
    assert_eq!(running.recorder.event().await, ticker());

    running.recorder.want(&[
        "coinbase/ticker/BTC-USD",
        "coinbase/level2/BTC-USD",
        "coinbase/ticker/C-D",
    ]);
    assert_eq!(peer.agree().await, "subscribe C-D heartbeat,ticker");
    assert_eq!(peer.agree().await, "subscribe BTC-USD level2_batch");
    running.recorder.want(&["coinbase/level2/BTC-USD"]);
    assert_eq!(peer.agree().await, "unsubscribe C-D heartbeat,ticker");
    assert_eq!(peer.agree().await, "unsubscribe BTC-USD ticker");
    running.recorder.want(&[]);
    assert!(peer.message().await.is_none(), "nothing is wanted");
    running.recorder.state(State::Live, "idle").await;
    running.stop().await;
}

#[tokio::test]
async fn after_a_lost_connection_books_start_over_and_no_trade_is_missing() {
    let exchange = exchange().await;
    let rest = ExchangeServer::start().await.expect("a port");
    let ids = [(); 5].map(|()| rest.trade_unstreamed("BTC-USD"));
    let topics = ["coinbase/matches/BTC-USD", "coinbase/level2/BTC-USD"];
    let mut running = Running::start_with(&exchange, &rest.rest_url(), &topics).await;
    let mut peer = accept(&exchange).await;
    assert_eq!(peer.agree().await, "subscribe BTC-USD heartbeat,level2_batch,matches");
    peer.send(&snapshot()).await;
    assert_eq!(running.recorder.event().await["type"], "snapshot");
    peer.send(&trade("last_match", ids[0])).await;
    assert_eq!(running.recorder.event().await["trade_id"], ids[0]);
    drop(peer);

    running.recorder.state(State::Connecting, "reconnecting").await;
    let mut peer = accept(&exchange).await;
    assert_eq!(peer.agree().await, "subscribe BTC-USD heartbeat,level2_batch,matches");
    let update = json!({"type": "l2update", "product_id": "BTC-USD", "changes": []});
    peer.send(&update).await;
    peer.send(&trade("last_match", ids[4])).await;
    peer.send(&trade("match", ids[4] + 1)).await;
    let expected = [ids[1], ids[2], ids[3], ids[4], ids[4] + 1];
    assert_eq!(running.recorder.trades(5).await, expected, "and no update without a book");
    peer.send(&snapshot()).await;
    peer.send(&update).await;
    assert_eq!(running.recorder.event().await["type"], "snapshot");
    assert_eq!(running.recorder.event().await["type"], "l2update");
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_trades_continue_from_the_log() {
    let exchange = exchange().await;
    let rest = ExchangeServer::start().await.expect("a port");
    let [logged, a, b, c] = [(); 4].map(|()| rest.trade_unstreamed("BTC-USD"));
    let mut running = Running::start_with(&exchange, &rest.rest_url(), &[]).await;
    let event = json!({"type": "match", "trade_id": logged, "backfilled": true});
    running.recorder.log("coinbase/matches/BTC-USD", &event).await;
    running.recorder.lose("coinbase/matches/BTC-USD", 2..=5).await;
    running.recorder.want(&["coinbase/matches/BTC-USD"]);
    let mut peer = accept(&exchange).await;
    peer.agree().await;
    // If there was no trade since the connection started, only the heartbeat names the newest.
    peer.send(&json!({"type": "heartbeat", "product_id": "BTC-USD", "last_trade_id": c})).await;
    assert_eq!(running.recorder.trades(3).await, [a, b, c]);
    peer.send(&trade("last_match", c)).await;
    peer.send(&trade("match", c + 1)).await;
    let event = running.recorder.event().await;
    assert_eq!(event, trade("match", c + 1), "what the exchange sent is preferred");
    running.stop().await;
}

#[tokio::test]
async fn one_bad_product_does_not_stop_the_others() {
    let exchange = exchange().await;
    let topics = ["coinbase/ticker/BTC-USD", "coinbase/ticker/X-Y"];
    let mut running = Running::start(&exchange, &topics).await;
    let mut peer = accept(&exchange).await;
    assert_eq!(peer.request().await, "subscribe BTC-USD,X-Y heartbeat,ticker");
    peer.subscriptions.clear();
    let reason = "X-Y is not a valid product";
    let error = json!({"type": "error", "message": "Failed to subscribe", "reason": reason});
    peer.send(&error).await;
    assert_eq!(peer.agree().await, "subscribe BTC-USD heartbeat,ticker");
    peer.send(&ticker()).await;
    assert_eq!(running.recorder.event().await, ticker());
    running.recorder.state(State::Live, "X-Y rejected: X-Y is not a valid product").await;
    running.stop().await;
}

#[tokio::test]
async fn a_rejected_handshake_is_reported_and_its_retry_after_is_respected() {
    let exchange = exchange().await;
    let mut running = Running::start(&exchange, &["coinbase/ticker/BTC-USD"]).await;
    let handshake = exchange.handshake().await;
    assert_eq!(handshake.headers["user-agent"], "headwater/test");
    handshake.reject(429, &[("retry-after", "1")]);
    running.recorder.state(State::Down, "429").await;
    let reported_at = std::time::Instant::now();
    let mut peer = accept(&exchange).await;
    assert!(reported_at.elapsed() > Duration::from_millis(900), "{:?}", reported_at.elapsed());
    peer.agree().await;
    running.recorder.state(State::Live, "").await;
    running.stop().await;
}

#[tokio::test]
async fn an_exchange_that_closes_each_connection_is_reported_as_down() {
    let exchange = exchange().await;
    let mut running = Running::start(&exchange, &["coinbase/ticker/BTC-USD"]).await;
    for _ in 0..DOWN_AFTER {
        let mut peer = accept(&exchange).await;
        peer.agree().await;
        peer.socket.close(None).await.expect("closed");
    }
    running.recorder.state(State::Down, "closed the connection").await;
    running.stop().await;
}

#[tokio::test]
async fn shutdown_closes_the_connection() {
    let exchange = exchange().await;
    let running = Running::start(&exchange, &["coinbase/ticker/BTC-USD"]).await;
    let mut peer = accept(&exchange).await;
    peer.agree().await;
    running.shutdown.cancel();
    let message = soon(peer.socket.next()).await;
    assert!(matches!(message, Some(Ok(Message::Close(_)))), "{message:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_server_without_tls_is_an_error_and_not_a_panic() {
    let exchange = exchange().await;
    let url = format!("wss://{}", exchange.address());
    let (upstream, _recorder) = upstream(&url, "http://nowhere.invalid").await;
    let connected = soon(upstream.connect()).await;
    assert!(matches!(connected, Err(UpstreamError::Socket(_))));
}

/// A connection within this process, on which time can be simulated.
struct Within {
    upstream: Upstream,
    socket: WebSocketStream<DuplexStream>,
    peer: ExchangePeer<DuplexStream>,
    recorder: Recorder,
}

impl Within {
    async fn open(topics: &[&str]) -> Self {
        let (mut upstream, recorder) =
            upstream("ws://nowhere.invalid", "http://nowhere.invalid").await;
        recorder.want(topics);
        upstream.on_event(Event::Wanted);
        upstream.session.connect(Instant::now());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let peer = ExchangePeer::over(theirs).await;
        Self { upstream, socket, peer, recorder }
    }

    /// Reads the connection until it ends, while `exchange` plays the exchange. Also returns how long
    /// that took.
    async fn pump<F>(mut self, exchange: F) -> (Result<(), UpstreamError>, Duration)
    where
        F: AsyncFnOnce(&mut ExchangePeer<DuplexStream>),
    {
        let start = Instant::now();
        let shutdown = CancellationToken::new();
        let ended = tokio::select! {
            ended = self.upstream.pump(&mut self.socket, &shutdown) => ended,
            () = async {
                exchange(&mut self.peer).await;
                future::pending::<()>().await;
            } => unreachable!("it pends"),
        };
        drop(self.recorder);
        (ended, start.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_exchange_is_disconnected() {
    let within = Within::open(&["coinbase/ticker/BTC-USD"]).await;
    let (ended, after) = within.pump(async |peer| drop(peer.request().await)).await;
    assert!(matches!(ended, Err(UpstreamError::Session(SessionError::Silent))), "{ended:?}");
    assert!((10..=11).contains(&after.as_secs()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn missing_heartbeats_lead_to_a_new_subscription_and_then_to_a_disconnect() {
    let within = Within::open(&["coinbase/ticker/BTC-USD"]).await;
    let (ended, after) = within
        .pump(async |peer| {
            peer.agree().await;
            loop {
                tokio::select! {
                    request = peer.agree() => assert!(request.ends_with("BTC-USD heartbeat,ticker")),
                    () = time::sleep(Duration::from_secs(1)) => {}
                }
                peer.send(&ticker()).await;
            }
        })
        .await;
    let is_stalled = matches!(ended, Err(UpstreamError::Session(SessionError::Stalled(_))));
    assert!(is_stalled, "{ended:?}");
    assert!((10..=11).contains(&after.as_secs()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn pings_are_sent_and_heartbeats_keep_a_connection_open() {
    let within = Within::open(&["coinbase/ticker/BTC-USD"]).await;
    let (ended, after) = within
        .pump(async |peer| {
            peer.agree().await;
            let mut pings = 0;
            let mut beat = time::interval(Duration::from_secs(1));
            while pings < 4 {
                tokio::select! {
                    message = peer.socket.next() => match message {
                        Some(Ok(Message::Ping(_))) => pings += 1,
                        message => panic!("expected a ping, got {message:?}"),
                    },
                    _ = beat.tick() => {
                        let beat = json!({"type": "heartbeat", "product_id": "BTC-USD"});
                        peer.send(&beat).await;
                    }
                }
            }
            peer.socket.close(None).await.expect("closed");
        })
        .await;
    assert!(matches!(ended, Err(UpstreamError::Closed(_))), "{ended:?}");
    assert_eq!(after.as_secs(), 60, "four pings");
}

#[tokio::test(start_paused = true)]
async fn garbage_does_not_end_a_connection() {
    let within = Within::open(&["coinbase/ticker/BTC-USD"]).await;
    let (ended, _) = within
        .pump(async |peer| {
            peer.agree().await;
            for text in ["", "{", "[]", "null", r#"{"type":"new"}"#] {
                peer.socket.send(Message::text(text)).await.expect("sent");
            }
            peer.socket.send(Message::binary(vec![0, 1])).await.expect("sent");
            peer.socket.close(None).await.expect("closed");
        })
        .await;
    assert!(matches!(ended, Err(UpstreamError::Closed(_))), "{ended:?}");
}

#[tokio::test]
async fn the_catalog_is_stored_once_it_can_be_fetched() {
    let listed = json!([
        {"id": "A-B", "status": "online", "trading_disabled": false},
        {"id": "C-D", "status": "delisted"},
        {"id": "E-F", "status": "online", "trading_disabled": true, "new": 1},
        {"id": "no pair", "status": "online"},
    ]);
    let attempts = Arc::new(AtomicU32::new(0));
    let respond = move |_: &Parts| match attempts.fetch_add(1, Ordering::Relaxed) {
        0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
        _ => Json(&listed).into_response(),
    };
    let server = ScriptedServer::start(respond).await.expect("a port");
    let rest_url = format!("http://{}", server.address()).parse().expect("a URL");
    let rest = Rest::new(rest_url, outside());
    let (feed, recorder) = Recorder::start().await;
    let (online, mut products) = watch::channel(Arc::default());
    let task = tokio::spawn(keep_catalog(rest, feed, online));
    let listed = recorder.products().await;
    let listed: Vec<(&str, bool)> = listed.iter().map(|it| (it.id.as_str(), it.online)).collect();
    assert_eq!(listed, [("A-B", true), ("C-D", false), ("E-F", false)]);
    let online = soon(products.wait_for(|ids| !ids.is_empty())).await.expect("products");
    assert_eq!(**online, HashSet::from(["A-B".to_owned()]));
    task.abort();
}
