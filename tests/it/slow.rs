//! Clients that read too slowly.

use harness::{Client, Event, ExchangeServer, Headwater};

const MATCHES: &str = "coinbase/matches/BTC-USD";

/// The number of trades, whose size is several times that of all buffers of a client that does not read.
const TRADES: usize = 12_000;

/// The most bytes that may be pending for a client, in the kernel's buffers and in Headwater's.
const MOST_BYTES: usize = 2 * 1024 * 1024;

#[tokio::test]
async fn a_client_that_does_not_read_does_not_delay_the_others() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut fast = headwater.client().await;
    let mut slow = Client::connect_narrow(headwater.address).await;
    fast.subscribe(&[MATCHES]).await;
    slow.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;

    let mut trades = Vec::new();
    let mut events = Vec::new();
    // The rate is that of the fast client, which the slow client must not affect.
    for _ in 0..TRADES / 500 {
        trades.extend((0..500).map(|_| exchange.trade("BTC-USD")));
        events.extend(fast.events(MATCHES, 500).await);
    }
    assert_eq!(events.iter().map(Event::trade_id).collect::<Vec<_>>(), trades);
    assert_eq!(fast.gaps, [], "the fast client misses nothing");

    // The slow client reads again, and receives the pending events, the gaps, and the new events. It sends
    // no requests meanwhile, because the gateway rejects responses too while its buffer is full.
    let id = exchange.trade("BTC-USD");
    let newest = fast.event(MATCHES).await;
    assert_eq!(newest.trade_id(), id);
    let last = newest.seq;
    let received = slow.events_up_to(MATCHES, last).await;
    let bytes: usize = received.iter().map(|event| event.text.len()).sum();
    assert!(bytes < MOST_BYTES, "{bytes} bytes were pending");
    assert!(!slow.gaps.is_empty(), "some events must have been dropped");
    assert!(slow.gaps.iter().all(|gap| gap.topic == MATCHES && gap.reason == "lagging"));
    let missing: u64 = slow.gaps.iter().map(|gap| gap.range.end() - gap.range.start() + 1).sum();
    assert_eq!(
        received.len() as u64 + missing,
        last,
        "each number arrived or was reported as missing"
    );
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
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).option("--flush-ms", "1").start().await;
    let mut fast = headwater.client().await;
    let mut slow = Client::connect_narrow(headwater.address).await;
    fast.subscribe(&[topic]).await;
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
        newest = fast.event(topic).await.seq;
    }
    let received = slow.events_until(topic, |event| sequence(event) == 300).await;
    assert!(received.len() < 290, "{} of 300 tickers arrived", received.len());
    assert_eq!(received.last().unwrap().seq, newest);
    let missing: u64 = slow.gaps.iter().map(|gap| gap.range.end() - gap.range.start() + 1).sum();
    assert_eq!(received.len() as u64 + missing, newest);
}

#[tokio::test]
async fn a_client_that_disappears_is_removed() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut open = headwater.client().await;
    let mut lost = headwater.client().await;
    open.subscribe(&[MATCHES]).await;
    lost.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    drop(lost);
    for _ in 0..10 {
        let id = exchange.trade("BTC-USD");
        assert_eq!(open.event(MATCHES).await.trade_id(), id);
    }
    harness::until("one connection is left", async || {
        let status = headwater.rest().get("/api/v1/status").await.json();
        (status["connections"] == 1).then_some(())
    })
    .await;
}
