//! Clients that read too slowly.

use harness::{Client, Event, Exchange, Headwater};

const MATCHES: &str = "coinbase/matches/BTC-USD";

/// Several times the buffers between the server and a client that does not read.
const TRADES: usize = 12_000;

/// The most that may be pending for a client: the kernel's buffers and ours.
const MOST_BYTES: usize = 2 * 1024 * 1024;

#[tokio::test]
async fn a_client_that_does_not_read_does_not_delay_the_others() {
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
    assert_eq!(quick.gaps, [], "the fast client misses nothing");

    // It reads again, and gets what is pending, the gaps, and what follows. Nothing is asked of it meanwhile:
    // while its buffer is full, the gateway rejects replies too.
    let id = exchange.trade("BTC-USD");
    let newest = quick.event(MATCHES).await;
    assert_eq!(newest.trade_id(), id);
    let mut got: Vec<Event> = slow.drain(MATCHES);
    while got.last().is_none_or(|event| event.seq < newest.seq) {
        got.push(slow.event(MATCHES).await);
    }
    let last = newest.seq;
    let bytes: usize = got.iter().map(|event| event.text.len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes waited for it");
    assert!(!slow.gaps.is_empty(), "it cannot have got everything");
    assert!(slow.gaps.iter().all(|gap| gap.topic == MATCHES && gap.reason == "lagging"));
    let missing: u64 = slow.gaps.iter().map(|gap| gap.range.end() - gap.range.start() + 1).sum();
    assert_eq!(got.len() as u64 + missing, last, "each number arrived or was reported as missing");
    let gap = slow.gaps[0].range.clone();
    let end = *gap.end().min(&(gap.start() + 99));
    let replayed = slow.replay(MATCHES, *gap.start()..=end).await;
    let from = usize::try_from(gap.start() - 1).unwrap();
    assert_eq!(replayed, events[from..from + replayed.len()], "missing events can be replayed");
    assert_eq!(headwater.rest().get("/healthz").await.status, 200);
}

#[tokio::test]
async fn for_a_slow_client_pending_tickers_are_replaced_by_newer_ones() {
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
async fn a_client_that_disappears_is_removed() {
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
