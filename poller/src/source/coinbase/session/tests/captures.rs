//! Sessions with whole captures of the exchange.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::*;
use crate::source::coinbase::fixtures;

fn topics(products: &[&str], channels: &[&str]) -> Vec<String> {
    let all = products.iter().flat_map(|product| {
        channels.iter().map(move |channel| format!("coinbase/{channel}/{product}"))
    });
    all.collect()
}

fn bench(products: &[&str], channels: &[&str]) -> Bench {
    let topics = topics(products, channels);
    Bench::new(&topics.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Counts the forwarded messages, by `type product`.
fn counts(out: &[(Topic, Outgoing)]) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for (topic, event) in out.iter().filter(|(_, event)| event.role == Role::Plain) {
        let json: Value = serde_json::from_slice(&event.json).expect("JSON");
        assert_eq!(json["product_id"].as_str(), topic.key(), "on its own topic");
        let kind = json["type"].as_str().expect("a type");
        *counts.entry(format!("{kind} {}", topic.key().expect("a product"))).or_default() += 1;
    }
    counts
}

/// Checks the counts of the forwarded messages.
fn assert_counts(out: &[(Topic, Outgoing)], expected: &Value) {
    let counts = counts(out);
    let passed_on = ["match ", "last_match ", "l2update ", "ticker "];
    for (kind, count) in expected["counts"].as_object().expect("an object") {
        if passed_on.iter().any(|passed| kind.starts_with(passed)) {
            assert_eq!(counts.get(kind).copied(), count.as_u64(), "{kind}");
        }
    }
}

/// Checks the best levels of a book, in our own snapshot.
fn assert_top(bench: &mut Bench, product: &str, expected: &Value) {
    let now = bench.now;
    let level2 = &mut bench.session.products.get_mut(product).expect("a product").level2;
    let snapshot = level2.snapshot(product, now).expect("a sound book");
    let json: Value = serde_json::from_slice(&snapshot).expect("JSON");
    for (side, name) in [("asks", "ask"), ("bids", "bid")] {
        let best = json!([expected[format!("best_{name}")], expected[format!("best_{name}_size")]]);
        assert_eq!(json[side][0], best, "{side} of {product}");
        let depth = expected[format!("{name}_levels")].as_u64().map(|depth| depth.min(200));
        let shown = json[side].as_array().map(|shown| shown.len() as u64);
        assert_eq!(shown, depth, "{side} of {product}");
    }
}

#[test]
fn a_minute_of_two_products_is_forwarded_completely() {
    let recorded =
        ["exchange-2026-07-07-btc-eth.jsonl", "exchange-2026-07-07-btc-eth.trimmed.jsonl"];
    for capture in fixtures::captures("two-products.jsonl", &recorded) {
        let expected = fixtures::expected(&capture);
        let text = &capture.text;
        let products = ["BTC-USD", "ETH-USD"];
        let mut bench = bench(&products, &["matches", "level2"]);
        for line in text.lines() {
            bench.take(line).expect("the connection continues");
            bench.tick(Duration::from_millis(24)).expect("the connection continues");
        }
        assert_eq!(bench.requests(), [""; 0], "no book was discarded");
        assert_eq!(bench.session.take_chores(), []);
        assert_counts(&bench.out, &expected);
        // Byte for byte, and in order.
        for kind in ["l2update", "match", "last_match"] {
            let is_one = |text: &&str| text.contains(&format!(r#""type":"{kind}""#));
            let came: Vec<&str> = text.lines().filter(is_one).collect();
            let went = bench
                .out
                .iter()
                .filter(|(_, event)| event.role == Role::Plain)
                .map(|(_, event)| std::str::from_utf8(&event.json).expect("UTF-8"));
            assert_eq!(went.filter(is_one).collect::<Vec<_>>(), came);
        }
        for product in products {
            assert_top(&mut bench, product, &expected["final_book"][product]);
        }
    }
}

#[test]
fn thin_products_are_forwarded_completely() {
    #[derive(serde::Deserialize)]
    struct Line<'a> {
        dir: String,
        #[serde(borrow)]
        msg: Option<&'a RawValue>,
    }

    let recorded = ["exchange-2021-04-17-level2-ticker-matches.jsonl"];
    for capture in fixtures::captures("thin-products.jsonl", &recorded) {
        let expected = fixtures::expected(&capture);
        let text = &capture.text;
        let books = expected["final_book"].as_object().expect("an object");
        let products: Vec<&str> = books.keys().map(String::as_str).collect();
        let names = topics(&products, &["ticker", "matches", "level2"]);
        let wanted = names.iter().map(|topic| Topic::parse(topic).expect("a topic")).collect();
        let now = Instant::now();
        // Sends no requests: the capture answers those of another client.
        let mut bench = Bench { session: Session::connected(&wanted, now), now, out: Vec::new() };
        for line in text.lines() {
            let line: Line<'_> = serde_json::from_str(line).expect("a line");
            if line.dir == "server" {
                bench.take(line.msg.expect("a message").get()).expect("the connection continues");
            }
        }
        assert_counts(&bench.out, &expected);
        for (product, book) in books {
            assert_top(&mut bench, product, book);
        }
    }
}

#[test]
fn faults_in_a_minute_are_repaired() {
    let recorded = ["exchange-2026-07-07-derived-faults.jsonl"];
    for capture in fixtures::captures("faults.jsonl", &recorded) {
        let expected = fixtures::expected(&capture);
        let text = &capture.text;
        let text_of_rest =
            fixtures::beside(&capture, "faults-trades.json", "rest-trades-btc-usd-derived.json");
        let response: Value = serde_json::from_str(&text_of_rest).expect("JSON");
        // In a recording, the page is a part of the whole response.
        let rest = response.get("body").unwrap_or(&response).as_array().expect("an array");
        // The list of results of the recording does not contain its first and last trade.
        let trade_ids = match &expected["trade_ids"] {
            Value::Null => [1_052_119_288, 1_052_119_632],
            ids => serde_json::from_value(ids.clone()).expect("two ids"),
        };

        let mut bench = bench(&["BTC-USD", "ETH-USD"], &["matches", "level2"]);
        let mut renewals = 0;
        let mut ended = Ok(());
        for line in text.lines() {
            ended = bench.take(line);
            bench.tick(Duration::from_millis(24)).expect("the connection continues");
            renewals += bench.requests().len() / 2;
            for chore in bench.session.take_chores() {
                let Chore::Fill { product, ids } = chore else { panic!("{chore:?}") };
                assert_eq!(&*product, "BTC-USD");
                let found = rest
                    .iter()
                    .map(|it| (it["trade_id"].as_u64().expect("an id"), it.to_string().into()))
                    .filter(|(id, _)| ids.contains(id))
                    .collect();
                bench.fill(&product, &ids, found);
            }
        }
        assert!(matches!(ended, Err(SessionError::Rejected(_))), "the last is an error: {ended:?}");
        assert!(renewals >= 1, "the book of BTC-USD was discarded");

        let mut live: BTreeMap<u64, &str> = BTreeMap::new();
        for line in text.lines().filter(|line| line.contains(r#"match""#)) {
            let json: Value = serde_json::from_str(line).expect("JSON");
            if json["product_id"] == "BTC-USD" {
                live.insert(json["trade_id"].as_u64().expect("an id"), line);
            }
        }
        let trades =
            bench.out.iter().filter(|(topic, _)| topic.as_str() == "coinbase/matches/BTC-USD");
        let mut dropped = Vec::new();
        for ((_, event), expected) in trades.clone().zip(trade_ids[0]..) {
            let json: Value = serde_json::from_slice(&event.json).expect("JSON");
            let id = json["trade_id"].as_u64().expect("an id");
            assert_eq!(id, expected, "in order and without duplicates");
            match live.get(&id) {
                Some(text) => assert_eq!(event.json, text.as_bytes(), "live texts are kept"),
                None => dropped.push(id),
            }
        }
        assert_eq!(trades.count() as u64, trade_ids[1] - trade_ids[0] + 1);
        assert_eq!(json!(dropped), expected["dropped_trade_ids"]);
    }
}

#[test]
fn frames_of_every_kind_are_handled() {
    let recorded = ["exchange-single-frames.jsonl", "exchange-synthetic-frames.jsonl"];
    let captures = fixtures::captures("frames.jsonl", &recorded);
    let lines = captures.iter().flat_map(|capture| capture.text.lines());
    let texts = lines.map(|line| {
        let line: Value = serde_json::from_str(line).expect("a line");
        line["raw"].as_str().map_or_else(|| line["frame"].to_string(), str::to_owned)
    });
    let mut passed_on = 0;
    for text in texts {
        // Each has a session of its own, so that none depends on another. It starts with a snapshot,
        // because updates need one.
        let products = ["BTC-USD", "ETH-USD", "ETH-EUR", "NEW-USD", "BTC-EUR"];
        let mut bench = bench(&products, &["ticker", "matches", "level2"]);
        bench.get(&json!({"type": "snapshot", "product_id": "BTC-USD", "asks": [], "bids": []}));
        bench.out.clear();
        let ended = bench.take(&text);
        assert_eq!(ended.is_err(), text.contains("ErrSlow"), "{text}: {ended:?}");
        for (_, event) in bench.out.iter().filter(|(_, event)| event.role == Role::Plain) {
            assert_eq!(event.json, text.as_bytes(), "byte for byte");
            passed_on += 1;
        }
    }
    assert!(passed_on >= 10, "only {passed_on} were forwarded");
}
