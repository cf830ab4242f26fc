//! Connections to a stand-in exchange.

use axum::Router;
use serde_json::{Value, json};
use simulator::script::ExchangePeer;
use tokio::{io::DuplexStream, task::JoinHandle};
use tokio_tungstenite::tungstenite::protocol::Role;

use super::*;
use crate::source::coinbase::stand_in::{Exchange, Recorder, Records, serve, soon, trades_up_to};

/// A source at work.
struct Running {
    records: Records,
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(exchange: &Exchange, router: Router, topics: &[&str]) -> Self {
        let (upstream, records) = upstream(&format!("ws://{}", exchange.address()), router).await;
        records.want(topics);
        let shutdown = CancellationToken::new();
        let token = shutdown.clone();
        let task = tokio::spawn(async move { upstream.run(&token).await });
        Self { records, shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        soon(self.task).await.expect("no panic");
    }
}

async fn upstream(url: &str, router: Router) -> (Upstream<Recorder>, Records) {
    let (recorder, records) = Recorder::new();
    let (_, products) = watch::channel(Arc::default());
    let user_agent = HeaderValue::from_static("headwater/test");
    let rest = serve(router).await;
    (Upstream::new(recorder, rest, products, url.to_owned(), user_agent), records)
}

fn trade(kind: &str, id: u64) -> Value {
    json!({"type": kind, "product_id": "A-B", "trade_id": id})
}

fn ticker() -> Value {
    json!({"type": "ticker", "product_id": "A-B"})
}

fn snapshot() -> Value {
    json!({"type": "snapshot", "product_id": "A-B", "asks": [["2", "1"]], "bids": [["1", "1"]]})
}

#[tokio::test]
async fn wanted_topics_are_subscribed_and_messages_are_published() {
    let exchange = Exchange::open().await;
    let mut running = Running::start(&exchange, Router::new(), &[]).await;
    running.records.state(State::Live, "idle").await;
    running.records.want(&["coinbase/ticker/A-B"]);
    let mut peer = exchange.accept().await;
    assert_eq!(peer.agree().await, "subscribe A-B heartbeat,ticker");
    running.records.state(State::Live, "").await;
    peer.send(&ticker()).await;
    assert_eq!(running.records.event().await, ticker());

    running.records.want(&["coinbase/ticker/A-B", "coinbase/level2/A-B", "coinbase/ticker/C-D"]);
    assert_eq!(peer.agree().await, "subscribe C-D heartbeat,ticker");
    assert_eq!(peer.agree().await, "subscribe A-B level2_batch");
    running.records.want(&["coinbase/level2/A-B"]);
    assert_eq!(peer.agree().await, "unsubscribe C-D heartbeat,ticker");
    assert_eq!(peer.agree().await, "unsubscribe A-B ticker");
    running.records.want(&[]);
    assert!(peer.message().await.is_none(), "nothing is wanted");
    running.records.state(State::Live, "idle").await;
    running.stop().await;
}

#[tokio::test]
async fn after_a_lost_connection_books_start_over_and_no_trade_is_missing() {
    let exchange = Exchange::open().await;
    let (router, _asks) = trades_up_to(5);
    let topics = ["coinbase/matches/A-B", "coinbase/level2/A-B"];
    let mut running = Running::start(&exchange, router, &topics).await;
    let mut peer = exchange.accept().await;
    assert_eq!(peer.agree().await, "subscribe A-B heartbeat,level2_batch,matches");
    peer.send(&snapshot()).await;
    peer.send(&trade("last_match", 1)).await;
    assert_eq!(running.records.event().await["type"], "snapshot");
    assert_eq!(running.records.event().await["trade_id"], 1);
    drop(peer);

    running.records.state(State::Connecting, "reconnecting").await;
    let mut peer = exchange.accept().await;
    assert_eq!(peer.agree().await, "subscribe A-B heartbeat,level2_batch,matches");
    let update = json!({"type": "l2update", "product_id": "A-B", "changes": []});
    peer.send(&update).await;
    peer.send(&trade("last_match", 5)).await;
    peer.send(&trade("match", 6)).await;
    assert_eq!(running.records.trades(5).await, [2, 3, 4, 5, 6], "and no update without a book");
    peer.send(&snapshot()).await;
    peer.send(&update).await;
    assert_eq!(running.records.event().await["type"], "snapshot");
    assert_eq!(running.records.event().await["type"], "l2update");
    running.stop().await;
}

#[tokio::test]
async fn after_a_restart_trades_go_on_from_the_log() {
    let exchange = Exchange::open().await;
    let (router, _asks) = trades_up_to(9);
    let mut running = Running::start(&exchange, router, &[]).await;
    let logged = json!({"type": "match", "trade_id": 6, "backfilled": true});
    running.records.log("coinbase/matches/A-B", &logged);
    running.records.want(&["coinbase/matches/A-B"]);
    let mut peer = exchange.accept().await;
    peer.agree().await;
    // There may have been no trade since the connection stands; the heartbeat tells the newest.
    peer.send(&json!({"type": "heartbeat", "product_id": "A-B", "last_trade_id": 9})).await;
    assert_eq!(running.records.trades(3).await, [7, 8, 9]);
    peer.send(&trade("last_match", 9)).await;
    peer.send(&trade("match", 10)).await;
    let event = running.records.event().await;
    assert_eq!(event, trade("match", 10), "what the exchange sent is preferred");
    running.stop().await;
}

#[tokio::test]
async fn one_bad_product_does_not_keep_the_others_from_streaming() {
    let exchange = Exchange::open().await;
    let topics = ["coinbase/ticker/A-B", "coinbase/ticker/X-Y"];
    let mut running = Running::start(&exchange, Router::new(), &topics).await;
    let mut peer = exchange.accept().await;
    assert_eq!(peer.request().await, "subscribe A-B,X-Y heartbeat,ticker");
    peer.subscriptions.clear();
    let reason = "X-Y is not a valid product";
    let error = json!({"type": "error", "message": "Failed to subscribe", "reason": reason});
    peer.send(&error).await;
    assert_eq!(peer.agree().await, "subscribe A-B heartbeat,ticker");
    peer.send(&ticker()).await;
    assert_eq!(running.records.event().await, ticker());
    running.records.state(State::Live, "X-Y rejected: X-Y is not a valid product").await;
    running.stop().await;
}

#[tokio::test]
async fn a_rejected_handshake_is_reported_and_its_retry_after_is_respected() {
    let exchange = Exchange::open().await;
    let mut running = Running::start(&exchange, Router::new(), &["coinbase/ticker/A-B"]).await;
    let handshake = exchange.handshake().await;
    assert_eq!(handshake.headers["user-agent"], "headwater/test");
    handshake.reject(429, &[("retry-after", "1")]);
    running.records.state(State::Down, "429").await;
    let reported_at = std::time::Instant::now();
    let mut peer = exchange.accept().await;
    assert!(reported_at.elapsed() > Duration::from_millis(900), "{:?}", reported_at.elapsed());
    peer.agree().await;
    running.records.state(State::Live, "").await;
    running.stop().await;
}

#[tokio::test]
async fn an_exchange_that_only_hangs_up_is_down_in_the_end() {
    let exchange = Exchange::open().await;
    let mut running = Running::start(&exchange, Router::new(), &["coinbase/ticker/A-B"]).await;
    for _ in 0..DOWN_AFTER {
        let mut peer = exchange.accept().await;
        peer.agree().await;
        peer.socket.close(None).await.expect("closed");
    }
    running.records.state(State::Down, "closed the connection").await;
    running.stop().await;
}

#[tokio::test]
async fn shutdown_closes_the_connection() {
    let exchange = Exchange::open().await;
    let running = Running::start(&exchange, Router::new(), &["coinbase/ticker/A-B"]).await;
    let mut peer = exchange.accept().await;
    peer.agree().await;
    running.shutdown.cancel();
    let message = soon(peer.socket.next()).await;
    assert!(matches!(message, Some(Ok(Message::Close(_)))), "{message:?}");
    running.stop().await;
}

#[tokio::test]
async fn a_server_without_tls_is_an_error_and_no_panic() {
    let exchange = Exchange::open().await;
    let (upstream, _) = upstream(&format!("wss://{}", exchange.address()), Router::new()).await;
    let connected = soon(upstream.connect()).await;
    assert!(matches!(connected, Err(UpstreamError::Socket(_))));
}

/// A connection within this process, on which time can be simulated.
struct Within {
    upstream: Upstream<Recorder>,
    socket: WebSocketStream<DuplexStream>,
    peer: ExchangePeer<DuplexStream>,
    records: Records,
}

impl Within {
    async fn open(topics: &[&str]) -> Self {
        let (mut upstream, records) = upstream("ws://nowhere.invalid", Router::new()).await;
        records.want(topics);
        upstream.on_event(Event::Wanted);
        upstream.session.connect(Instant::now());
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        let socket = WebSocketStream::from_raw_socket(ours, Role::Client, None).await;
        let peer = ExchangePeer::over(theirs).await;
        Self { upstream, socket, peer, records }
    }

    /// Reads the connection until it ends, while the exchange does something; tells after how long
    /// it ended.
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
        drop(self.records);
        (ended, start.elapsed())
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_exchange_is_left() {
    let within = Within::open(&["coinbase/ticker/A-B"]).await;
    let (ended, after) = within.pump(async |peer| drop(peer.request().await)).await;
    assert!(matches!(ended, Err(UpstreamError::Session(SessionError::Silent))), "{ended:?}");
    assert!((10..=11).contains(&after.as_secs()), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_exchange_without_heartbeats_is_asked_anew_and_then_left() {
    let within = Within::open(&["coinbase/ticker/A-B"]).await;
    let (ended, after) = within
        .pump(async |peer| {
            peer.agree().await;
            loop {
                tokio::select! {
                    request = peer.agree() => assert!(request.ends_with("A-B heartbeat,ticker")),
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
async fn pings_are_sent_and_heartbeats_keep_a_connection() {
    let within = Within::open(&["coinbase/ticker/A-B"]).await;
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
                        let beat = json!({"type": "heartbeat", "product_id": "A-B"});
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
    let within = Within::open(&["coinbase/ticker/A-B"]).await;
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
async fn the_catalogue_is_passed_on_once_it_can_be_fetched() {
    use axum::{Json, http::StatusCode, response::IntoResponse as _, routing::get};

    let listed = json!([
        {"id": "A-B", "status": "online", "trading_disabled": false},
        {"id": "C-D", "status": "delisted"},
        {"id": "E-F", "status": "online", "trading_disabled": true, "new": 1},
        {"id": "no pair", "status": "online"},
    ]);
    let attempts = Arc::new(std::sync::atomic::AtomicU32::new(0));
    let router = Router::new().route(
        "/products",
        get(move || async move {
            match attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
                0 => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
                _ => Json(listed).into_response(),
            }
        }),
    );
    let (recorder, mut records) = Recorder::new();
    let (online, mut products) = watch::channel(Arc::default());
    let task = tokio::spawn(keep_catalogue(serve(router).await, recorder, online));
    let listed = soon(records.products.wait_for(|it| !it.is_empty())).await.expect("products");
    let listed: Vec<(&str, bool)> = listed.iter().map(|it| (it.id.as_str(), it.online)).collect();
    assert_eq!(listed, [("A-B", true), ("C-D", false), ("E-F", false)]);
    let online = soon(products.wait_for(|ids| !ids.is_empty())).await.expect("products");
    assert_eq!(**online, HashSet::from(["A-B".to_owned()]));
    task.abort();
}
