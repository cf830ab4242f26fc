//! Clients that do not keep up.

use harness::{Client, Event, Exchange, Headwater};
use serde_json::json;

const MATCHES: &str = "coinbase/matches/BTC-USD";

/// Several times what fits between the server and a client that does not read.
const TRADES: usize = 12_000;

/// What may wait on a way: the kernel's buffers and ours.
const MOST_BYTES: usize = 2 * 1024 * 1024;

#[tokio::test]
async fn a_client_that_does_not_read_costs_the_others_nothing() {
    let exchange = Exchange::start().await;
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut quick = headwater.client().await;
    let mut slow = Client::connect_narrow(headwater.address).await;
    quick.subscribe(&[MATCHES]).await;
    slow.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;

    let mut trades = Vec::new();
    let mut events = Vec::new();
    // As fast as the quick one reads, which the slow one must not change.
    for _ in 0..TRADES / 500 {
        trades.extend((0..500).map(|_| exchange.trade("BTC-USD")));
        events.extend(quick.events(MATCHES, 500).await);
    }
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), trades);
    assert_eq!(quick.gaps, [], "the quick one misses nothing");

    // It wakes up, and is told what it got, what it did not get, and what follows.
    let mut got = Vec::new();
    let last = loop {
        got.extend(slow.drain(MATCHES));
        let id = exchange.trade("BTC-USD");
        let newest = quick.event(MATCHES).await;
        slow.ask(json!({"action": "ping"})).await;
        got.extend(slow.drain(MATCHES));
        assert_eq!(newest.trade_id(), id);
        if got.last().is_some_and(|event: &Event| event.seq >= newest.seq) {
            break newest.seq;
        }
    };
    let bytes: usize = got.iter().map(|event| event.text.len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes waited for it");
    assert!(!slow.gaps.is_empty(), "it cannot have got everything");
    assert!(slow.gaps.iter().all(|gap| gap.topic == MATCHES && gap.reason == "lagging"));
    let missing: u64 = slow.gaps.iter().map(|gap| gap.range.end() - gap.range.start() + 1).sum();
    assert_eq!(got.len() as u64 + missing, last, "each number came or was told to be missing");
    let gap = slow.gaps[0].range.clone();
    let end = *gap.end().min(&(gap.start() + 99));
    let replayed = slow.replay(MATCHES, *gap.start()..=end).await;
    let from = usize::try_from(gap.start() - 1).unwrap();
    assert_eq!(replayed, events[from..from + replayed.len()], "what is missing can be had");
    assert_eq!(headwater.rest().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn for_a_slow_client_tickers_give_way_to_newer_ones() {
    let topic = "coinbase/ticker/BTC-USD";
    let exchange = Exchange::start().await;
    let headwater = Headwater::setup().exchange(&exchange).option("--flush-ms", "1").start().await;
    let mut quick = headwater.client().await;
    let mut slow = Client::connect_narrow(headwater.address).await;
    quick.subscribe(&[topic]).await;
    slow.subscribe(&[topic]).await;
    exchange.subscribed("ticker", "BTC-USD").await;
    let padding = "x".repeat(8_000);
    let ticker = |sequence: u64| {
        format!(
            r#"{{"type":"ticker","sequence":{sequence},"product_id":"BTC-USD","x":"{padding}"}}"#
        )
    };
    let sequence = |event: &Event| event.json()["sequence"].as_u64().unwrap();
    let mut newest = 0;
    for count in 1..=300 {
        exchange.send(ticker(count));
        newest = quick.event(topic).await.seq;
    }
    let got = slow.events_until(topic, |event| sequence(event) == 300).await;
    assert!(got.len() < 290, "{} of 300 waited", got.len());
    assert_eq!(got.last().unwrap().seq, newest);
    let missing: u64 = slow.gaps.iter().map(|gap| gap.range.end() - gap.range.start() + 1).sum();
    assert_eq!(got.len() as u64 + missing, newest);
}

#[tokio::test]
async fn a_client_that_vanishes_is_forgotten() {
    let exchange = Exchange::start().await;
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let (mut stays, mut goes) = (headwater.client().await, headwater.client().await);
    stays.subscribe(&[MATCHES]).await;
    goes.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    drop(goes);
    for _ in 0..10 {
        let id = exchange.trade("BTC-USD");
        assert_eq!(stays.event(MATCHES).await.trade_id(), id);
    }
    harness::until("one connection is left", async || {
        let status = headwater.rest().get("/api/v1/status").await.json();
        (status["connections"] == 1).then_some(())
    })
    .await;
}
