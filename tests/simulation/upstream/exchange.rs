//! The exchange: trades and tickers on its WebSocket feed, and its REST interface.

use std::collections::{BTreeMap, BTreeSet};

use domain::topic::Topic;
use reqwest::{
    Url,
    header::{HeaderMap, HeaderValue},
};
use serde_json::{Value, json};

use super::{
    Upstream,
    connection::{Connection, Happening},
};

/// The host of both interfaces.
pub(super) const HOST: &str = "exchange.invalid";

/// Number of trades on a page.
const PAGE: usize = 1_000;

/// Answers a request of the REST interface. Returns the headers and the body, if it exists.
pub(super) fn respond(upstream: &Upstream, url: &Url) -> Option<(HeaderMap, Value)> {
    let path: Vec<&str> = url.path_segments()?.collect();
    match path[..] {
        ["products"] => {
            let product = |id| json!({"id": id, "status": "online", "trading_disabled": false});
            Some((HeaderMap::new(), json!([product("A-USD"), product("B-USD")])))
        }
        ["products", product, "trades"] => {
            let topic = Topic::coinbase("matches", product).ok()?;
            let newest = upstream.newest(&topic);
            let forgotten = upstream.forgotten(&topic);
            let after: u64 = url.query_pairs().find(|(key, _)| key == "after")?.1.parse().ok()?;
            let ids = (1..=newest.min(after - 1)).rev().filter(|id| !forgotten.contains(id));
            let ids: Vec<u64> = ids.take(PAGE).collect();
            let trades: Vec<Value> = ids.iter().map(|id| trade("match", product, *id)).collect();
            let mut headers = HeaderMap::new();
            if let Some(oldest) = ids.last().filter(|oldest| **oldest > 1) {
                headers.insert("cb-after", HeaderValue::from(*oldest));
            }
            Some((headers, trades.into()))
        }
        _ => None,
    }
}

/// Serves a connection to the WebSocket feed.
pub(super) async fn serve(mut connection: Connection) {
    // By channel and product: the number up to which was sent.
    let mut subscribed: BTreeMap<(String, String), u64> = BTreeMap::new();
    while let Some(happening) = connection.next().await {
        match happening {
            Happening::Request(request) => {
                change(&mut subscribed, &connection.upstream, &request);
                connection.answer(&confirmation(&subscribed));
                for ((channel, product), newest) in &subscribed {
                    if channel == "matches" && *newest > 0 && request["type"] == "subscribe" {
                        connection.answer(&trade("last_match", product, *newest));
                    }
                }
                send_new(&mut subscribed, &mut connection);
            }
            Happening::Moved => send_new(&mut subscribed, &mut connection),
            Happening::Second => {
                for (_, product) in subscribed.keys().filter(|(name, _)| name == "heartbeat") {
                    let topic = Topic::coinbase("matches", product).unwrap();
                    connection.answer(&json!({
                        "type": "heartbeat",
                        "sequence": 1,
                        "last_trade_id": connection.upstream.newest(&topic),
                        "product_id": product,
                        "time": connection.upstream.clock.now(),
                    }));
                }
            }
        }
    }
}

/// Changes the subscriptions as a request says.
fn change(subscribed: &mut BTreeMap<(String, String), u64>, upstream: &Upstream, request: &Value) {
    let texts = |key: &str| {
        let texts = request[key].as_array().into_iter().flatten();
        texts.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    for channel in texts("channels") {
        for product in texts("product_ids") {
            // The ticker starts with the newest one.
            let newest = match Topic::coinbase(&channel, &product) {
                Ok(topic) if channel == "matches" => upstream.newest(&topic),
                _ => 0,
            };
            let pair = (channel.clone(), product);
            if request["type"] == "subscribe" {
                subscribed.entry(pair).or_insert(newest);
            } else {
                subscribed.remove(&pair);
            }
        }
    }
}

fn confirmation(subscribed: &BTreeMap<(String, String), u64>) -> Value {
    let names: BTreeSet<&String> = subscribed.keys().map(|(channel, _)| channel).collect();
    let channels = names.into_iter().map(|name| {
        let products = subscribed.keys().filter(|(channel, _)| channel == name);
        let products: Vec<&String> = products.map(|(_, product)| product).collect();
        json!({"name": name, "product_ids": products})
    });
    json!({"type": "subscriptions", "channels": channels.collect::<Vec<_>>()})
}

/// Sends what is new on the subscribed channels.
fn send_new(subscribed: &mut BTreeMap<(String, String), u64>, connection: &mut Connection) {
    for ((channel, product), sent) in subscribed {
        let Ok(topic) = Topic::coinbase(channel, product) else { continue };
        let newest = connection.upstream.newest(&topic);
        match channel.as_str() {
            "matches" => {
                for id in *sent + 1..=newest {
                    if !connection.skips() {
                        connection.send(&trade("match", product, id));
                    }
                }
            }
            "ticker" if newest > *sent => {
                let ticker = json!({
                    "type": "ticker",
                    "sequence": newest,
                    "product_id": product,
                    "price": "2.00",
                    "time": connection.upstream.clock.now(),
                });
                connection.answer(&ticker);
            }
            _ => {}
        }
        *sent = newest;
    }
}

fn trade(kind: &str, product: &str, id: u64) -> Value {
    json!({
        "type": kind,
        "trade_id": id,
        "side": "buy",
        "size": "0.1",
        "price": "2.00",
        "product_id": product,
        "time": "2026-11-22T10:00:00.000000Z",
    })
}
