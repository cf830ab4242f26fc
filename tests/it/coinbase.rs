//! Market data, from the exchange to the clients.

use harness::{Event, ExchangeServer, Headwater};
use serde_json::{Value, json};

const MATCHES: &str = "coinbase/matches/BTC-USD";
const TICKER: &str = "coinbase/ticker/BTC-USD";
const LEVEL2: &str = "coinbase/level2/BTC-USD";

#[tokio::test]
async fn messages_arrive_byte_for_byte_and_numbered_without_holes() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[MATCHES, TICKER]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.subscribed("ticker", "BTC-USD").await;
    let odd = [
        r#"{ "type" : "match" , "product_id":"BTC-USD","trade_id": 1 , "price":"1.00" }"#,
        r#"{"trade_id":2,"side":"sell","later":{"deep":[1,2 ,[ 3 ]],"none":null},"product_id":"BTC-USD","type":"match"}"#,
        "{\"type\":\"match\",\n\t\"product_id\":\"BTC-USD\",\r\n\"trade_id\":3}",
        r#"{"type":"match","product_id":"BTC-USD","trade_id":4,"note":"Grüße 🦀 \ud83e\udd80 日本 \"\\\/ \u0000"}"#,
        r#"{"type":"match","product_id":"BTC-USD","trade_id":5,"price":1e-400,"size":123456789012345678901234567890.50}"#,
        r#"{"type":"m\u0061tch","product_id":"BTC\u002dUSD","trade_id":6}"#,
        r#"{"type":"match","product_id":"BTC-USD","trade_id":7,"a":1,"a":2}"#,
    ];
    for text in odd {
        exchange.send(text);
    }
    let events = client.events(MATCHES, odd.len()).await;
    assert_eq!(events.iter().map(|event| event.text.as_str()).collect::<Vec<_>>(), odd);
    assert_eq!(numbers(&events), (1..=odd.len() as u64).collect::<Vec<_>>());
    let history = headwater.rest().get(&format!("/api/v1/history/{MATCHES}")).await;
    for text in odd {
        assert!(history.text.contains(text), "the log has the same bytes: {text}");
    }
    for (seq, text) in [
        r#"{"type":"ticker","sequence":1,"product_id":"BTC-USD","price":"63510.15" ,"best_bid":""}"#,
        r#"{"price":"0","product_id":"BTC-USD","é":"è","type":"ticker"}"#,
    ]
    .into_iter()
    .enumerate()
    {
        exchange.send(text);
        let event = client.event(TICKER).await;
        assert_eq!((event.seq, event.text.as_str()), (seq as u64 + 1, text));
    }
}

#[tokio::test]
async fn one_connection_to_the_exchange_serves_every_subscribed_topic() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    assert_eq!(exchange.accepted(), 0, "no topic has a subscriber");
    let mut client = headwater.client().await;
    client.subscribe(&[TICKER]).await;
    exchange.subscribed("ticker", "BTC-USD").await;
    client.subscribe(&["coinbase/matches/ETH-USD"]).await;
    exchange.subscribed("matches", "ETH-USD").await;
    assert_eq!(exchange.accepted(), 1, "one connection to the exchange");
    let asked: Vec<Value> = exchange.requests();
    let heartbeats = asked.iter().filter(|it| it["channels"].to_string().contains("heartbeat"));
    assert_eq!(heartbeats.count(), 2, "each product has a heartbeat: {asked:?}");
}

#[tokio::test]
async fn recorded_topics_are_fetched_without_subscribers() {
    let exchange = ExchangeServer::start().await.unwrap();
    let setup = Headwater::setup().exchange(&exchange);
    let headwater = setup.option("--coinbase-record", "matches/ETH-USD").start().await;
    exchange.subscribed("matches", "ETH-USD").await;
    let id = exchange.trade("ETH-USD");
    let mut client = headwater.client().await;
    let topic = "coinbase/matches/ETH-USD";
    harness::until("the trade is in the log", async || {
        let page = headwater.rest().history(topic).await;
        (page["events"][0]["event"]["trade_id"] == id).then_some(())
    })
    .await;
    let answer = client.subscribe_with(&[topic], json!({"last": 10})).await;
    assert_eq!(answer["topics"][0]["seq"], 1);
    assert_eq!(client.event(topic).await.trade_id(), id);
}

#[tokio::test]
async fn pending_tickers_are_replaced_by_newer_ones_and_trades_are_not() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater =
        Headwater::setup().exchange(&exchange).option("--flush-ms", "300").start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[TICKER, MATCHES]).await;
    exchange.subscribed("ticker", "BTC-USD").await;
    exchange.subscribed("matches", "BTC-USD").await;
    let mut trades = Vec::new();
    for count in 1..=500 {
        exchange.send(ticker(count));
        trades.push(exchange.trade("BTC-USD"));
    }
    let events = client.events(MATCHES, 500).await;
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), trades);
    let ticks = client.events_until(TICKER, |event| event.text == ticker(500)).await;
    assert!(ticks.len() < 50, "{} of 500 tickers arrived", ticks.len());
    assert_eq!(numbers(&ticks), (1..=ticks.len() as u64).collect::<Vec<_>>());
    let sequences: Vec<u64> =
        ticks.iter().map(|it| it.json()["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted(), "{sequences:?}");
}

#[tokio::test]
async fn a_book_starts_with_a_snapshot_and_continues_byte_for_byte() {
    let exchange = ExchangeServer::start().await.unwrap();
    exchange.set_book("BTC-USD", &book(300));
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[LEVEL2]).await;
    let event = client.event(LEVEL2).await;
    assert_eq!(event.seq, 1);
    let snapshot = event.json();
    assert_eq!(snapshot["type"], "snapshot");
    assert_eq!(snapshot["product_id"], "BTC-USD");
    let levels = |side: &str| snapshot[side].as_array().unwrap().clone();
    assert_eq!(
        (levels("asks").len(), levels("bids").len()),
        (200, 200),
        "the best 200 levels of each side"
    );
    assert_eq!(levels("asks")[0], json!(["1001.00", "1"]));
    assert_eq!(levels("bids")[0], json!(["999.00", "1"]));
    let updates = [
        r#"{"type":"l2update","product_id":"BTC-USD","changes":[["buy","999.50","2"]],"time":"2026-11-22T10:00:01.000000Z"}"#,
        r#"{ "type":"l2update", "product_id":"BTC-USD", "x":1, "changes":[["sell","1001.00","0.00000000"],["buy","999.5","0"]] }"#,
    ];
    for text in updates {
        exchange.send(text);
    }
    for text in updates {
        assert_eq!(client.event(LEVEL2).await.text, text);
    }
}

#[tokio::test]
async fn a_later_subscriber_of_a_book_starts_at_the_newest_snapshot() {
    let exchange = ExchangeServer::start().await.unwrap();
    exchange.set_book("BTC-USD", &book(3));
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut early = headwater.client().await;
    early.subscribe(&[LEVEL2]).await;
    let mut all = early.events(LEVEL2, 1).await;
    for level in 0..5 {
        exchange.send(update(level));
    }
    all.extend(early.events(LEVEL2, 5).await);
    // A crossed book is invalid, so the poller requests a new snapshot.
    exchange.send(
        r#"{"type":"l2update","product_id":"BTC-USD","changes":[["buy","2000","1"]],"time":"2026-11-22T10:00:02Z"}"#,
    );
    all.extend(early.events_until(LEVEL2, is_snapshot).await);
    let newest = all.len();
    for level in 5..8 {
        exchange.send(update(level));
    }
    all.extend(early.events(LEVEL2, 3).await);
    let mut late = headwater.client().await;
    let subscribed = late.subscribe(&[LEVEL2]).await;
    assert_eq!(subscribed["topics"][0]["seq"], all.len());
    assert_eq!(
        late.events(LEVEL2, 4).await,
        all[newest - 1..],
        "the events from the newest snapshot on"
    );
    exchange.send(update(8));
    assert_eq!(late.event(LEVEL2).await, early.event(LEVEL2).await);
}

#[tokio::test]
async fn a_client_that_subscribes_during_a_burst_misses_no_event() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).option("--flush-ms", "1").start().await;
    for product in ["BTC-USD", "ETH-USD", "SOL-USD"] {
        let topic = format!("coinbase/matches/{product}");
        let mut clients = Vec::new();
        for _ in 0..8 {
            let mut client = headwater.client().await;
            for _ in 0..200 {
                exchange.trade(product);
            }
            // The first client subscribes before the first trade is fetched, the others during the burst.
            let answer = client.subscribe(&[&topic]).await;
            if clients.is_empty() {
                exchange.subscribed("matches", product).await;
            }
            clients.push((client, answer["topics"][0]["seq"].as_u64().unwrap()));
        }
        let newest = exchange.trade(product);
        for (client, from) in &mut clients {
            let events = client.events_until(&topic, |event| event.trade_id() == newest).await;
            assert_eq!(events[0].seq, *from + 1, "the events start with the next number");
            assert_eq!(client.gaps, []);
        }
    }
}

#[tokio::test]
async fn two_clients_receive_the_same_numbers_and_an_unsubscribed_client_none() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).in_one_process().start().await;
    let mut one = headwater.client().await;
    let mut two = headwater.client().await;
    one.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.trade("BTC-USD");
    one.events(MATCHES, 1).await;
    assert_eq!(two.subscribe(&[MATCHES]).await["topics"][0]["seq"], 1);
    exchange.trade("BTC-USD");
    assert_eq!(one.event(MATCHES).await, two.event(MATCHES).await);
    one.ask(json!({"action": "unsubscribe", "topics": [MATCHES]})).await;
    exchange.trade("BTC-USD");
    two.events(MATCHES, 1).await;
    let sources = one.subscribe_with(&["system/sources"], json!({"last": 1})).await;
    assert_eq!(sources["type"], "subscribed");
    one.events("system/sources", 1).await;
    assert_eq!(one.drain(MATCHES), [], "the client has unsubscribed");
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq).collect()
}

fn ticker(sequence: u64) -> String {
    format!(r#"{{"type":"ticker","sequence":{sequence},"product_id":"BTC-USD","price":"1.5"}}"#)
}

fn update(level: u64) -> String {
    format!(
        r#"{{"type":"l2update","product_id":"BTC-USD","changes":[["buy","99{level}.10","1"]],"time":"2026-11-22T10:00:01.00000{level}Z"}}"#
    )
}

fn is_snapshot(event: &Event) -> bool {
    event.json()["type"] == "snapshot"
}

/// Returns a snapshot with this many levels on each side: from 1001.00 up and from 999.00 down.
fn book(levels: u64) -> String {
    let asks: Vec<Value> =
        (1..=levels).map(|it| json!([format!("{}.00", 1_000 + it), "1"])).collect();
    let bids: Vec<Value> =
        (1..=levels).map(|it| json!([format!("{}.00", 1_000 - it), "1"])).collect();
    json!({
        "type": "snapshot", "product_id": "BTC-USD", "asks": asks, "bids": bids,
        "time": "2026-11-22T10:00:00.000000Z",
    })
    .to_string()
}
