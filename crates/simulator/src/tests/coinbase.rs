//! Tests of the generated exchange.

use std::collections::BTreeMap;

use super::*;

const BTC: &str = r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}"#;

fn of_type<'a>(values: &'a [Value], name: &'a str) -> impl Iterator<Item = &'a Value> {
    values.iter().filter(move |value| value["type"] == name)
}

fn ids(values: &[Value]) -> Vec<u64> {
    of_type(values, "match").filter_map(|value| value["trade_id"].as_u64()).collect()
}

#[tokio::test]
async fn a_subscriber_receives_the_state_and_then_all_changes() {
    let simulator = start(|options| options.rate = 300.0).await;
    let mut socket = connect(&simulator.coinbase_url()).await;
    send(
        &mut socket,
        r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["level2_batch","matches","heartbeat",{"name":"ticker","product_ids":["ETH-BTC"]}]}"#,
    )
    .await;
    let subscriptions = receive_json(&mut socket).await;
    assert_eq!(subscriptions["type"], "subscriptions");
    let names: Vec<_> = subscriptions["channels"].as_array().unwrap().iter().collect();
    assert_eq!(names[0]["name"], "level2_50");
    assert_eq!(names[0]["product_ids"], serde_json::json!(["BTC-USD"]));
    assert!(names[0]["account_ids"].is_null());
    assert_eq!(names[2]["product_ids"], serde_json::json!(["BTC-USD", "ETH-BTC"]));

    let messages = receive_until(&mut socket, |seen| {
        of_type(seen, "match").count() > 50
            && of_type(seen, "l2update").count() > 10
            && of_type(seen, "heartbeat").count() > 0
    })
    .await;
    let last = of_type(&messages, "last_match").next().unwrap()["trade_id"].as_u64().unwrap();
    let ids = ids(&messages);
    assert!(ids.iter().copied().eq(last + 1..=last + ids.len() as u64), "{last} {ids:?}");

    let mut books: [BTreeMap<u64, String>; 2] = Default::default();
    let price = |text: &Value| text.as_str().unwrap().replace('.', "").parse::<u64>().unwrap();
    for message in &messages {
        for (side, name) in ["bids", "asks"].into_iter().enumerate() {
            for level in message[name].as_array().into_iter().flatten() {
                books[side].insert(price(&level[0]), level[1].to_string());
            }
        }
        for change in message["changes"].as_array().into_iter().flatten() {
            let side = usize::from(change[0] == "sell");
            if change[2] == "0.00000000" {
                books[side].remove(&price(&change[1]));
            } else {
                books[side].insert(price(&change[1]), change[2].to_string());
            }
        }
        if !books[0].is_empty() {
            assert!(books[0].last_key_value().unwrap().0 < books[1].first_key_value().unwrap().0);
        }
    }
}

#[tokio::test]
async fn subscriptions_are_added_and_removed() {
    let simulator = start(|_| {}).await;
    let mut socket = connect(&simulator.coinbase_url()).await;
    let only = |value: Value| value["channels"].to_string();
    let product = r#"{"type":"subscribe","product_ids":["TIDE-USD"],"channels":["ticker"]}"#;
    send(&mut socket, product).await;
    assert!(only(receive_json(&mut socket).await).contains("TIDE-USD"));
    assert_eq!(receive_json(&mut socket).await["price"], "0");
    until_stats(&simulator.coinbase_rest_url(), |stats| {
        stats["subscriptions"]["ticker/TIDE-USD"] == 1
    })
    .await;
    send(&mut socket, r#"{"type":"unsubscribe","channels":["ticker"]}"#).await;
    assert_eq!(only(receive_json(&mut socket).await), "[]");
}

#[tokio::test]
async fn an_invalid_subscription_is_rejected_as_a_whole() {
    let simulator = start(|_| {}).await;
    let mut socket = connect(&simulator.coinbase_url()).await;
    let cases = [
        (r#"{"type":"subscribe","product_ids":["BTC-USD"]}"#, "No channels provided"),
        (
            r#"{"type":"subscribe","product_ids":["BTC-USD","X-Y"],"channels":["matches"]}"#,
            "X-Y is not a valid product",
        ),
        (
            r#"{"type":"subscribe","product_ids":["REP-USD"],"channels":["matches"]}"#,
            "REP-USD is not a valid product",
        ),
        (
            r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches","level9"]}"#,
            "level9 is not a valid channel",
        ),
        (
            r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["full"]}"#,
            "now require authentication",
        ),
    ];
    for (command, reason) in cases {
        send(&mut socket, command).await;
        let error = receive_json(&mut socket).await;
        assert_eq!(error["message"], "Failed to subscribe", "case: {command}");
        assert!(error["reason"].as_str().unwrap().contains(reason), "case: {command} {error}");
    }
    send(&mut socket, "{").await;
    assert_eq!(receive_json(&mut socket).await["type"], "error");
}

#[tokio::test]
async fn a_client_that_never_subscribes_is_closed() {
    let simulator = start(|options| options.subscribe_within = Duration::from_millis(50)).await;
    let mut socket = connect(&simulator.coinbase_url()).await;
    assert!(ended(&mut socket).await.is_some());
}

#[tokio::test]
async fn rest_lists_products_and_pages_through_trades() {
    let simulator = start(|_| {}).await;
    let base = simulator.coinbase_rest_url();
    let (_, products) = get(format!("{base}/products")).await;
    assert!(products.as_array().unwrap().len() >= 12);
    assert!(products.as_array().unwrap().iter().any(|product| product["status"] == "delisted"));
    assert_eq!(
        get(format!("{base}/products/X-Y/trades")).await,
        (404, serde_json::json!({"message": "NotFound"}))
    );

    let page = http().get(format!("{base}/products/BTC-USD/trades?limit=3")).send().await.unwrap();
    let cursor = |name: &str| page.headers()[name].to_str().unwrap().parse::<u64>().unwrap();
    let newest = cursor("cb-before");
    let oldest = cursor("cb-after");
    assert_eq!(newest, oldest + 2);
    let list = async |query: &str| -> Vec<u64> {
        let (_, trades) = get(format!("{base}/products/BTC-USD/trades?{query}")).await;
        trades.as_array().unwrap().iter().map(|trade| trade["trade_id"].as_u64().unwrap()).collect()
    };
    assert_eq!(list(&format!("limit=2&after={oldest}")).await, [oldest - 1, oldest - 2]);
    let newer = list(&format!("limit=1&before={}", oldest - 50)).await;
    assert!(newer[0] >= newest, "the newest page, not the adjacent one");
    assert_eq!(get(format!("{base}/products/BTC-USD/trades?limit=x")).await.0, 400);

    let nameless = reqwest::Client::new().get(format!("{base}/products")).send().await.unwrap();
    assert_eq!(nameless.status(), 400);
}

#[tokio::test]
async fn skipped_trades_are_missing_from_the_stream_but_not_from_rest() {
    let simulator = start(|options| options.rate = 1_000.0).await;
    simulator.faults().set(Fault::SkipTrades, true);
    let mut socket = connect(&simulator.coinbase_url()).await;
    send(&mut socket, BTC).await;
    let messages = receive_until(&mut socket, |seen| ids(seen).len() > 30).await;
    let ids = ids(&messages);
    let missing = (ids[0]..ids[30]).find(|id| !ids.contains(id)).expect("a missing trade");
    let base = simulator.coinbase_rest_url();
    let (_, trades) =
        get(format!("{base}/products/BTC-USD/trades?limit=1&after={}", missing + 1)).await;
    assert_eq!(trades[0]["trade_id"], missing);
    let (_, all) = get(format!("{base}/_simulator/trades/BTC-USD")).await;
    let number = |name: &str| all[name].as_u64().unwrap();
    assert_eq!(number("last") - number("first") + 1, number("count"));
}

#[tokio::test]
async fn duplicates_reordering_and_garbage_lose_nothing() {
    for fault in [Fault::Duplicate, Fault::Reorder, Fault::Garbage] {
        let simulator = start(|options| {
            options.rate = 1_000.0;
            options.faults = vec![fault];
        })
        .await;
        let mut socket = connect(&simulator.coinbase_url()).await;
        send(&mut socket, BTC).await;
        let messages = receive_until(&mut socket, |seen| ids(seen).len() > 200).await;
        let ids = ids(&messages);
        let in_order = ids.is_sorted_by(|a, b| a < b);
        let mut unique = ids.clone();
        unique.sort_unstable();
        unique.dedup();
        // The newest trades can still be delayed.
        assert!(unique.windows(2).rev().skip(2).all(|pair| pair[0] + 1 == pair[1]), "{fault:?}");
        let doubled = unique.len() < ids.len();
        let broken = messages.iter().any(|message| message["type"].is_null());
        let seen = (doubled, !doubled && !in_order, broken);
        let expected = [Fault::Duplicate, Fault::Reorder, Fault::Garbage].map(|it| it == fault);
        assert_eq!([seen.0, seen.1, seen.2], expected, "{fault:?}");
    }
}

#[tokio::test]
async fn the_fault_refuse_returns_503_until_it_is_switched_off_over_http() {
    let simulator = start(|options| options.faults = vec![Fault::Refuse]).await;
    let base = simulator.coinbase_rest_url();
    assert_eq!(get(format!("{base}/products")).await.0, 503);
    let refused = connect_async(simulator.coinbase_url()).await.unwrap_err();
    assert!(
        matches!(refused, tokio_tungstenite::tungstenite::Error::Http(answer) if answer.status() == 503)
    );
    let faults = format!("{base}/_simulator/faults");
    assert_eq!(get(faults.clone()).await.1["active"], serde_json::json!(["refuse"]));
    http().delete(format!("{faults}/refuse")).send().await.unwrap();
    assert_eq!(get(format!("{base}/products")).await.0, 200);
    connect(&simulator.coinbase_url()).await;
    let unknown = http().put(format!("{faults}/fire")).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
}

#[tokio::test]
async fn connections_are_dropped_on_demand_and_by_the_fault() {
    let simulator = start(|_| {}).await;
    let base = simulator.coinbase_rest_url();
    let mut socket = connect(&simulator.coinbase_url()).await;
    until_stats(&base, |stats| stats["connections"] == 1).await;
    http().post(format!("{base}/_simulator/drop")).send().await.unwrap();
    assert!(ended(&mut socket).await.is_none(), "no close frame");

    let mut socket = connect(&simulator.coinbase_url()).await;
    send(&mut socket, BTC).await;
    http().put(format!("{base}/_simulator/faults/drop")).send().await.unwrap();
    assert!(ended(&mut socket).await.is_none(), "no close frame");
}

#[tokio::test]
async fn the_fault_silent_omits_all_messages_until_it_is_switched_off() {
    let simulator = start(|options| options.rate = 1_000.0).await;
    let mut socket = connect(&simulator.coinbase_url()).await;
    send(&mut socket, BTC).await;
    receive_until(&mut socket, |seen| !ids(seen).is_empty()).await;
    let base = simulator.coinbase_rest_url();
    let last =
        async || get(format!("{base}/_simulator/trades/BTC-USD")).await.1["last"].as_u64().unwrap();
    simulator.faults().coinbase.set(Fault::Silent, true);
    socket.send(Message::Ping(tokio_tungstenite::tungstenite::Bytes::default())).await.unwrap();
    let silent_from = last().await;
    let mut now = 0;
    while now < silent_from + 100 {
        now = last().await;
    }
    simulator.faults().coinbase.set(Fault::Silent, false);
    let messages =
        receive_until(&mut socket, |seen| ids(seen).last().is_some_and(|id| *id > now)).await;
    let ids = ids(&messages);
    let hole = ids.windows(2).any(|pair| pair[1] > pair[0] + 50) || ids[0] > silent_from + 50;
    assert!(hole, "{silent_from} {now} {ids:?}");
}

#[tokio::test]
async fn a_client_that_does_not_read_is_notified_and_disconnected() {
    let simulator = start(|options| options.rate = 20_000.0).await;
    let mut socket = connect(&simulator.coinbase_url()).await;
    send(
        &mut socket,
        r#"{"type":"subscribe","product_ids":["BTC-USD","ETH-USD","SOL-USD","DOGE-USD"],"channels":["matches","ticker","level2_batch"]}"#,
    )
    .await;
    until_stats(&simulator.coinbase_rest_url(), |stats| stats["slow_consumers"] == 1).await;
    let last = ended(&mut socket).await.expect("a close frame");
    assert!(last.contains("ErrSlowConsume"), "{last}");
}
