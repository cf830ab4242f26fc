//! Resuming: `since`, `last`, replays, history and restarts.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use harness::{Client, Event, ExchangeServer, Gap, Headwater, until};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time};
use tokio_util::sync::CancellationToken;

const MATCHES: &str = "coinbase/matches/BTC-USD";

/// Starts an exchange, a Headwater that reads it, and a client that has received this many trades.
async fn with_trades(count: usize) -> (ExchangeServer, Headwater, Client, Vec<Event>) {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..count {
        exchange.trade("BTC-USD");
    }
    let events = client.events(MATCHES, count).await;
    (exchange, headwater, client, events)
}

#[tokio::test]
async fn since_delivers_missed_events_and_then_new_ones() {
    let (exchange, headwater, first, mut all) = with_trades(50).await;
    first.close().await;
    for _ in 0..10 {
        exchange.trade("BTC-USD");
    }
    let mut client = headwater.client().await;
    let since = json!({"since": {MATCHES: 20}});
    let answer = client.subscribe_with(&[MATCHES], since).await;
    assert_eq!(answer["topics"][0]["recovered"], true);
    exchange.trade("BTC-USD");
    let events = client.events(MATCHES, 41).await;
    assert_eq!(events[0].seq, 21);
    assert_eq!(events[..30], all[20..], "numbers, times and bytes are the same");
    all.extend(events[30..].to_vec());
    let ids: Vec<u64> = all.iter().map(Event::trade_id).collect();
    assert_eq!(ids, (ids[0]..ids[0] + 61).collect::<Vec<_>>());
}

#[tokio::test]
async fn since_a_number_beyond_the_newest_is_not_recovered() {
    let (exchange, headwater, _first, _) = with_trades(5).await;
    for (since, recovered) in [(5, true), (0, true), (6, false), (1_000_000, false)] {
        let mut client = headwater.client().await;
        let answer = client.subscribe_with(&[MATCHES], json!({"since": {MATCHES: since}})).await;
        let expected = json!([{"topic": MATCHES, "seq": 5, "recovered": recovered}]);
        assert_eq!(answer["topics"], expected);
        client.ask(json!({"action": "ping"})).await;
        let gap = Gap { topic: MATCHES.to_owned(), range: 1..=5, reason: "reset".to_owned() };
        assert_eq!(client.gaps, if recovered { vec![] } else { vec![gap] });
    }
    let mut client = headwater.client().await;
    client.subscribe_with(&[MATCHES], json!({"since": {MATCHES: 5}})).await;
    let mut ahead = headwater.client().await;
    ahead.subscribe_with(&[MATCHES], json!({"since": {MATCHES: 99}})).await;
    let id = exchange.trade("BTC-USD");
    for client in [&mut client, &mut ahead] {
        let event = client.event(MATCHES).await;
        assert_eq!((event.seq, event.trade_id()), (6, id));
    }
}

#[tokio::test]
async fn a_number_of_another_log_is_void() {
    let (_exchange, headwater, mut client, _) = with_trades(5).await;
    let log = client.hello().await["log"].clone();
    let same = json!({"since": {MATCHES: 5}, "log": log});
    let answer = client.subscribe_with(&[MATCHES], same.clone()).await;
    assert_eq!((&answer["log"], &answer["topics"][0]["recovered"]), (&log, &json!(true)));
    assert_eq!(headwater.rest().history(MATCHES).await["log"], log);
    assert_eq!(headwater.rest().get("/api/v1/status").await.json()["log"], log);

    let (exchange, other, _first, _) = with_trades(9).await;
    let mut client = other.client().await;
    let answer = client.subscribe_with(&[MATCHES], same).await;
    assert_ne!(answer["log"], log);
    let expected = json!([{"topic": MATCHES, "seq": 9, "recovered": false}]);
    assert_eq!(answer["topics"], expected);
    let id = exchange.trade("BTC-USD");
    let event = client.event(MATCHES).await;
    assert_eq!((event.seq, event.trade_id()), (10, id));
    let gap = Gap { topic: MATCHES.to_owned(), range: 6..=9, reason: "reset".to_owned() };
    assert_eq!(client.gaps, [gap]);
    let pong = client.ask(json!({"action": "ping"})).await;
    assert_eq!(pong["heads"], json!({MATCHES: 10}));
}

#[tokio::test]
async fn last_delivers_the_newest_events() {
    let (exchange, headwater, _first, all) = with_trades(30).await;
    for (last, from) in [(7, 23), (30, 0), (1_000, 0)] {
        let mut client = headwater.client().await;
        let answer = client.subscribe_with(&[MATCHES], json!({"last": last})).await;
        assert_eq!(answer["topics"][0].get("recovered"), None);
        assert_eq!(client.events(MATCHES, 30 - from).await, all[from..], "case: {last}");
    }
    let mut client = headwater.client().await;
    client.subscribe_with(&[MATCHES], json!({"last": 0})).await;
    exchange.trade("BTC-USD");
    assert_eq!(client.event(MATCHES).await.seq, 31);
}

#[tokio::test]
async fn a_replay_delivers_the_same_bytes_again() {
    let (_exchange, headwater, mut client, all) = with_trades(40).await;
    assert_eq!(client.replay(MATCHES, 5..=25).await, all[4..25]);
    assert_eq!(client.replay(MATCHES, 40..=40).await, all[39..]);
    let mut stranger = headwater.client().await;
    assert_eq!(stranger.replay(MATCHES, 1..=3).await, all[..3], "a replay needs no subscription");
    let beyond = json!({"action": "replay", "topic": MATCHES, "from": 41, "to": 50});
    stranger.send(&beyond).await;
    stranger.ask(json!({"action": "ping"})).await;
    assert_eq!(stranger.gaps, [], "events that do not exist yet are no gap");
}

#[tokio::test]
async fn expired_events_are_reported_as_a_gap() {
    let exchange = ExchangeServer::start().await.unwrap();
    let retention = Duration::from_secs(1);
    let headwater = Headwater::setup().exchange(&exchange).retention(retention).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..5 {
        exchange.trade("BTC-USD");
    }
    client.events(MATCHES, 5).await;
    until("the trades expire", async || {
        let page = headwater.rest().history(MATCHES).await;
        page["events"].as_array().unwrap().is_empty().then_some(())
    })
    .await;
    let mut late = headwater.client().await;
    let answer = late.subscribe_with(&[MATCHES], json!({"since": {MATCHES: 2}})).await;
    let expected = json!([{"topic": MATCHES, "seq": 5, "recovered": false}]);
    assert_eq!(answer["topics"], expected);
    let id = exchange.trade("BTC-USD");
    let event = late.event(MATCHES).await;
    assert_eq!((event.seq, event.trade_id()), (6, id), "the numbering continues");
    let gap = Gap { topic: MATCHES.to_owned(), range: 3..=5, reason: "expired".to_owned() };
    assert_eq!(late.gaps, [gap]);
}

#[tokio::test]
async fn history_is_read_page_by_page() {
    let (_exchange, headwater, _client, all) = with_trades(250).await;
    let rest = headwater.rest();
    let seqs = |page: &Value| -> Vec<u64> {
        let events = page["events"].as_array().unwrap().iter();
        events.map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let mut found = Vec::new();
    let mut query = format!("{MATCHES}?limit=60");
    loop {
        let page = rest.history(&query).await;
        assert_eq!(page["topic"], MATCHES);
        found.extend(page["events"].as_array().unwrap().clone());
        let Some(next) = page["next"].as_u64() else { break };
        query = format!("{MATCHES}?limit=60&after={next}");
    }
    assert_eq!(found.len(), 250);
    for (found, event) in found.iter().zip(&all) {
        let expected = json!({"seq": event.seq, "at": event.at, "event": event.json()});
        assert_eq!(*found, expected);
    }
    let cases = [
        ("", (1..=100).collect::<Vec<u64>>(), Some(100)),
        ("?after=240", (241..=250).collect(), None),
        ("?after=240&limit=10", (241..=250).collect(), None),
        ("?after=240&limit=9", (241..=249).collect(), Some(249)),
        ("?before=11", (1..=10).collect(), None),
        ("?before=101&limit=5", (96..=100).collect(), None),
        ("?before=9999&limit=3", (248..=250).collect(), None),
        ("?after=100&before=104", (101..=103).collect(), None),
        ("?after=100&before=104&limit=2", (101..=102).collect(), Some(102)),
        ("?after=250", vec![], None),
        ("?after=18446744073709551615", vec![], None),
        ("?before=1", vec![], None),
        ("?before=0", vec![], None),
    ];
    for (query, expected, next) in cases {
        let page = rest.history(&format!("{MATCHES}{query}")).await;
        assert_eq!(seqs(&page), expected, "case: {query}");
        assert_eq!(page["next"].as_u64(), next, "case: {query}");
    }
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?after=-1"] {
        rest.get(&format!("/api/v1/history/{MATCHES}{query}")).await.problem(422);
    }
}

#[tokio::test]
async fn a_restart_after_a_kill_misses_no_trade() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = Arc::new(ExchangeServer::start().await.unwrap());
    let setup = Headwater::setup().exchange(&exchange).folder(folder.path());
    let headwater = setup.spawn().await;
    let mut client = headwater.client().await;
    client.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    let (trading, stop) = trade_continuously(exchange.clone());
    let mut events = client.events(MATCHES, 200).await;
    headwater.kill().await;
    client.read_to_the_end().await;
    events.extend(client.drain(MATCHES));
    let killed_at = exchange.newest_trade("BTC-USD");
    until("trades are made while Headwater is down", async || {
        (exchange.newest_trade("BTC-USD") >= killed_at + 50).then_some(())
    })
    .await;

    let headwater = setup.spawn().await;
    let mut client = headwater.client().await;
    let last = events.last().unwrap().seq;
    let answer = client.subscribe_with(&[MATCHES], json!({"since": {MATCHES: last}})).await;
    assert_eq!(answer["topics"][0]["recovered"], true);
    exchange.subscribed("matches", "BTC-USD").await;
    let reopened_at = exchange.newest_trade("BTC-USD");
    let live = client
        .events_until(MATCHES, |event| {
            event.trade_id() > reopened_at + 100 && event.json().get("backfilled").is_none()
        })
        .await;
    stop.cancel();
    trading.await.unwrap();
    events.extend(live);
    assert_eq!(client.gaps, []);
    let seqs: Vec<u64> = events.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, (1..=seqs.len() as u64).collect::<Vec<_>>(), "the numbering continues");
    let ids: Vec<u64> = events.iter().map(Event::trade_id).collect();
    assert_eq!(
        ids,
        (ids[0]..=*ids.last().unwrap()).collect::<Vec<_>>(),
        "each trade once, in order"
    );
    let fetched: BTreeSet<u64> = events
        .iter()
        .filter(|event| event.json()["backfilled"] == true)
        .map(Event::trade_id)
        .collect();
    assert!(fetched.contains(&(killed_at + 25)), "fetched after the restart: {fetched:?}");
}

#[tokio::test]
async fn a_restart_continues_the_numbering() {
    let folder = tempfile::tempdir().unwrap();
    let exchange = ExchangeServer::start().await.unwrap();
    let setup = Headwater::setup().exchange(&exchange).folder(folder.path());
    let headwater = setup.spawn().await;
    let mut client = headwater.client().await;
    client.subscribe(&[MATCHES]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.trade("BTC-USD");
    let before = client.event(MATCHES).await;
    let log = client.hello().await["log"].clone();
    let (closed, ()) = tokio::join!(client.closed(), headwater.stop());
    assert_eq!(closed.0, 1001, "clients are notified of the shutdown");
    until("trades are made while Headwater is down", async || {
        exchange.trade_unstreamed("BTC-USD");
        (exchange.newest_trade("BTC-USD") > before.trade_id() + 3).then_some(())
    })
    .await;
    let headwater = setup.spawn().await;
    let mut client = headwater.client().await;
    let answer = client.subscribe_with(&[MATCHES], json!({"last": 1})).await;
    assert_eq!((&answer["topics"][0]["seq"], &answer["log"]), (&json!(1), &log));
    assert_eq!(client.event(MATCHES).await, before);
    let next = client.event(MATCHES).await;
    assert_eq!((next.seq, next.trade_id()), (2, before.trade_id() + 1));
}

/// Trades in the background until the token is cancelled.
fn trade_continuously(exchange: Arc<ExchangeServer>) -> (JoinHandle<()>, CancellationToken) {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let trading = tokio::spawn(async move {
        let mut ticks = time::interval(Duration::from_millis(4));
        while !stopped.is_cancelled() {
            ticks.tick().await;
            exchange.trade("BTC-USD");
        }
    });
    (trading, stop)
}
