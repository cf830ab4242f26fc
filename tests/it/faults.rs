//! Faults of the upstreams.

use harness::{Client, Event, ExchangeServer, Headwater};
use reqwest::StatusCode;
use serde_json::{Value, json};

const MATCHES: &str = "coinbase/matches/BTC-USD";
const LEVEL2: &str = "coinbase/level2/BTC-USD";
const SOURCES: &str = "system/sources";

async fn with_subscriber(exchange: &ExchangeServer) -> (Headwater, Client) {
    let headwater = Headwater::setup().exchange(exchange).start().await;
    let mut client = headwater.client().await;
    client.subscribe_with(&[SOURCES], json!({"last": 100})).await;
    client.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    states_until(&mut client, "live").await;
    (headwater, client)
}

#[tokio::test]
async fn after_a_lost_connection_missing_trades_are_fetched() {
    let exchange = ExchangeServer::start().await.unwrap();
    let (_headwater, mut client) = with_subscriber(&exchange).await;
    let mut trades: Vec<u64> = (0..20).map(|_| exchange.trade("BTC-USD")).collect();
    client.events(MATCHES, 1).await;
    exchange.drop_connections();
    trades.extend((0..20).map(|_| exchange.trade_unstreamed("BTC-USD")));
    let states = states_until(&mut client, "connecting").await;
    let detail = states.last().unwrap()["detail"].as_str().unwrap();
    assert!(!detail.is_empty(), "the state has a reason");
    states_until(&mut client, "live").await;
    exchange.subscribed("matches", "BTC-USD").await;
    trades.extend((0..20).map(|_| exchange.trade("BTC-USD")));
    let events = client.events(MATCHES, trades.len() - 1).await;
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), trades[1..]);
    assert!(events.iter().any(|event| event.json()["backfilled"] == true));
    assert_eq!(exchange.accepted(), 2);
}

#[tokio::test]
async fn trades_that_the_feed_omits_are_fetched() {
    let exchange = ExchangeServer::start().await.unwrap();
    let (_headwater, mut client) = with_subscriber(&exchange).await;
    let trades = [
        exchange.trade("BTC-USD"),
        exchange.trade_unstreamed("BTC-USD"),
        exchange.trade_unstreamed("BTC-USD"),
        exchange.trade("BTC-USD"),
        // Only a heartbeat reveals that the last trade is missing.
        exchange.trade_unstreamed("BTC-USD"),
    ];
    let events = client.events(MATCHES, trades.len()).await;
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), trades);
    let fetched: Vec<bool> =
        events.iter().map(|event| event.json()["backfilled"] == true).collect();
    assert_eq!(fetched, [false, true, true, false, true]);
    assert_eq!(exchange.accepted(), 1, "the connection stays open");
}

#[tokio::test]
async fn malformed_messages_are_ignored() {
    let exchange = ExchangeServer::start().await.unwrap();
    let (_headwater, mut client) = with_subscriber(&exchange).await;
    let first = exchange.trade("BTC-USD");
    let garbage = [
        "",
        "nonsense",
        "{",
        "[]",
        "null",
        "{}",
        r#"{"type":"match"}"#,
        r#"{"type":"match","product_id":"BTC-USD"}"#,
        r#"{"type":"match","product_id":"BTC-USD","trade_id":"one"}"#,
        r#"{"type":"match","product_id":"BTC-USD","trade_id":-1}"#,
        r#"{"type":"match","product_id":7,"trade_id":1002}"#,
        r#"{"type":"match","product_id":"NOT-WANTED","trade_id":1}"#,
        r#"{"type":"heartbeat","product_id":"BTC-USD","last_trade_id":"many"}"#,
        r#"{"type":"subscriptions","channels":"all"}"#,
        r#"{"type":"subscriptions"}"#,
        r#"{"type":"something.new","product_id":"BTC-USD"}"#,
        r#"{"type":"error","message":"Something else","reason":null}"#,
        r#"{"type":"l2update","product_id":"BTC-USD","changes":[["buy","x","y"]]}"#,
        r#"{"type":"snapshot","product_id":"BTC-USD","asks":[["1"]],"bids":{}}"#,
        r#"{"type":["match"],"product_id":"BTC-USD","trade_id":1002}"#,
        "\u{0}\u{1}\u{fffd}",
    ];
    for text in garbage {
        exchange.send(text);
    }
    exchange.send_binary(&[0, 159, 146, 150]);
    exchange.send("[".repeat(100_000));
    exchange.send(format!(r#"{{"type":"match","x":"{}"}}"#, "x".repeat(300_000)));
    exchange.send(format!(
        r#"{{"type":"ticker","product_id":"BTC-USD","x":"{}"}}"#,
        "x".repeat(300_000)
    ));
    let second = exchange.trade("BTC-USD");
    let events = client.events(MATCHES, 2).await;
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), [first, second]);
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2]);
    assert_eq!(exchange.accepted(), 1, "the connection stays open");
}

#[tokio::test]
async fn duplicate_and_reordered_trades_are_sorted() {
    let exchange = ExchangeServer::start().await.unwrap();
    let (_headwater, mut client) = with_subscriber(&exchange).await;
    let text = |id: u64| format!(r#"{{"type":"match","product_id":"BTC-USD","trade_id":{id}}}"#);
    for id in [1, 2, 2, 1, 4, 3, 3, 5] {
        exchange.send(text(id));
    }
    let events = client.events(MATCHES, 5).await;
    let expected: Vec<String> = (1..=5).map(text).collect();
    assert_eq!(events.iter().map(|event| event.text.clone()).collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn an_invalid_book_is_replaced_by_a_new_snapshot() {
    let exchange = ExchangeServer::start().await.unwrap();
    exchange.set_book(
        "BTC-USD",
        r#"{"type":"snapshot","product_id":"BTC-USD","asks":[["11","1"]],"bids":[["9","1"]],"time":"2026-11-22T10:00:00Z"}"#,
    );
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[LEVEL2]).await;
    assert_eq!(client.event(LEVEL2).await.json()["type"], "snapshot");
    exchange.set_book(
        "BTC-USD",
        r#"{"type":"snapshot","product_id":"BTC-USD","asks":[["21","1"]],"bids":[["19","1"]],"time":"2026-11-22T10:00:01Z"}"#,
    );
    exchange.send(r#"{"type":"l2update","product_id":"BTC-USD","changes":[["buy","10","#);
    let snapshot = client.event(LEVEL2).await.json();
    assert_eq!((&snapshot["type"], &snapshot["asks"]), (&json!("snapshot"), &json!([["21", "1"]])));
    exchange.drop_connections();
    let snapshot = client.event(LEVEL2).await.json();
    assert_eq!(snapshot["type"], "snapshot", "a new connection starts with a snapshot");
}

#[tokio::test]
async fn a_silent_connection_is_replaced_by_a_new_one() {
    let exchange = ExchangeServer::start().await.unwrap();
    let (_headwater, mut client) = with_subscriber(&exchange).await;
    let mut trades = vec![exchange.trade("BTC-USD")];
    client.events(MATCHES, 1).await;
    exchange.silence_connections();
    trades.extend((0..10).map(|_| exchange.trade("BTC-USD")));
    // The poller reconnects after about ten seconds without a message.
    let events = client.events(MATCHES, 10).await;
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), trades[1..]);
    assert_eq!(exchange.accepted(), 2);
    let states = states_until(&mut client, "connecting").await;
    assert_eq!(states.last().unwrap()["source"], "coinbase");
    states_until(&mut client, "live").await;
}

#[tokio::test]
async fn an_exchange_that_rejects_handshakes_is_down_until_it_accepts_one() {
    let exchange = ExchangeServer::start().await.unwrap();
    let (headwater, mut client) = with_subscriber(&exchange).await;
    exchange.reject_handshakes(Some(StatusCode::FORBIDDEN));
    exchange.drop_connections();
    let states = states_until(&mut client, "down").await;
    let detail = states.last().unwrap()["detail"].as_str().unwrap();
    assert!(detail.contains("403"), "{detail}");
    let health = headwater.rest().get("/healthz").await;
    assert_eq!(health.status, 200, "the health check does not depend on the upstream");
    exchange.reject_handshakes(None);
    states_until(&mut client, "live").await;
    let id = exchange.newest_trade("BTC-USD") + 1;
    exchange.subscribed("matches", "BTC-USD").await;
    assert_eq!(exchange.trade("BTC-USD"), id);
    assert_eq!(client.event(MATCHES).await.trade_id(), id);
}

/// Returns the states of the exchange up to the given one.
async fn states_until(client: &mut Client, state: &str) -> Vec<Value> {
    let is_it = |event: &Event| {
        let event = event.json();
        event["source"] == "coinbase"
            && event["state"] == state
            && event["detail"] != "idle: nothing is wanted"
    };
    let events = client.events_until(SOURCES, is_it).await;
    events.iter().map(Event::json).collect()
}
