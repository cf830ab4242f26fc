//! Messages and times in; events, requests and chores out.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

mod captures;

const A: &str = "A-B";

/// A session, and the events that it published.
struct Bench {
    session: Session,
    now: Instant,
    out: Vec<(Topic, Outgoing)>,
}

impl Bench {
    /// A session that is connected, found nothing in the log, and has sent its requests.
    fn new(topics: &[&str]) -> Self {
        let wanted = topics.iter().map(|topic| Topic::parse(topic).expect("a topic")).collect();
        let now = Instant::now();
        let session = Session::connected(&wanted, now);
        let mut bench = Self { session, now, out: Vec::new() };
        bench.requests();
        bench.session.take_chores();
        bench
    }

    fn want(&mut self, topics: &[&str]) {
        let wanted = topics.iter().map(|topic| Topic::parse(topic).expect("a topic")).collect();
        self.session.want(&wanted);
    }

    fn take(&mut self, text: &str) -> Result<(), SessionError> {
        let out = &mut self.out;
        let mut publish = |topic: &Topic, event| out.push((topic.clone(), event));
        self.session.on_message(Utf8Bytes::from(text), self.now, &mut publish)
    }

    /// Handles a message that does not end the connection.
    fn get(&mut self, message: &Value) {
        self.take(&message.to_string()).expect("the connection continues");
    }

    fn tick(&mut self, after: Duration) -> Result<(), SessionError> {
        self.now += after;
        let out = &mut self.out;
        self.session.tick(self.now, &mut |topic, event| out.push((topic.clone(), event)))
    }

    /// Lets seconds pass while products send heartbeats.
    fn live(&mut self, seconds: u32, products: &[&str]) -> Result<(), SessionError> {
        for _ in 0..seconds * 10 {
            self.tick(Duration::from_millis(100))?;
            for product in products {
                self.get(&json!({"type": "heartbeat", "product_id": product, "last_trade_id": 0}));
            }
        }
        Ok(())
    }

    fn fill(&mut self, product: &str, ids: &RangeInclusive<u64>, found: Vec<(u64, Bytes)>) {
        let out = &mut self.out;
        let mut publish = |topic: &Topic, event| out.push((topic.clone(), event));
        self.session.fill(product, ids, found, self.now, &mut publish);
    }

    fn requests(&mut self) -> Vec<String> {
        std::iter::from_fn(|| self.session.next_request(self.now)).collect()
    }

    /// Confirms all channels of these products.
    fn agree(&mut self, products: &[&str]) {
        let channels = ["level2_50", "matches", "ticker", "heartbeat"]
            .map(|name| json!({"name": name, "product_ids": products}));
        self.get(&json!({"type": "subscriptions", "channels": channels}));
    }

    /// The events that were published since the last call, with their topics.
    fn published(&mut self) -> Vec<(String, Value)> {
        let out = self.out.drain(..);
        out.map(|(topic, event)| {
            let json = match event.role {
                Role::Lost(count) => json!({"type": "lost", "count": count}),
                _ => serde_json::from_slice(&event.json).expect("JSON"),
            };
            (topic.to_string(), json)
        })
        .collect()
    }

    /// The types of the events that were published since the last call.
    fn kinds(&mut self) -> Vec<String> {
        let published = self.published().into_iter();
        published.map(|(_, event)| event["type"].as_str().expect("a type").to_owned()).collect()
    }
}

fn snapshot(product: &str) -> Value {
    json!({"type": "snapshot", "product_id": product, "asks": [["2", "1"]], "bids": [["1", "1"]]})
}

fn update(product: &str, side: &str, price: &str) -> Value {
    json!({"type": "l2update", "product_id": product, "changes": [[side, price, "1"]]})
}

fn trade(product: &str, id: u64) -> Value {
    json!({"type": "match", "product_id": product, "trade_id": id})
}

const RENEWAL: [&str; 2] = [
    r#"{"type":"unsubscribe","product_ids":["A-B"],"channels":["level2_batch"]}"#,
    r#"{"type":"subscribe","product_ids":["A-B"],"channels":["level2_batch"]}"#,
];

#[test]
fn wanted_topics_are_subscribed_and_published_unchanged() {
    let mut bench = Bench::new(&[]);
    assert!(bench.session.is_idle());
    bench.want(&["coinbase/ticker/A-B", "mastodon/public"]);
    let expected =
        r#"{"type":"subscribe","product_ids":["A-B"],"channels":["heartbeat","ticker"]}"#;
    assert_eq!(bench.requests(), [expected]);
    let text = "{ \"type\":\"ticker\",\n\"product_id\":\"A-B\" ,\"price\":\"1.50\",\"new\":[{}]}";
    bench.take(text).expect("fine");
    let (topic, event) = bench.out.pop().expect("an event");
    assert_eq!((topic.as_str(), event), ("coinbase/ticker/A-B", Outgoing::plain(text)));
    bench.get(&trade(A, 7));
    bench.get(&update(A, "buy", "1"));
    bench.get(&snapshot(A));
    bench.get(&json!({"type": "ticker", "product_id": "C-D"}));
    assert!(bench.out.is_empty(), "these topics are not wanted");
    bench.want(&["mastodon/public"]);
    let expected =
        r#"{"type":"unsubscribe","product_ids":["A-B"],"channels":["heartbeat","ticker"]}"#;
    assert_eq!(bench.requests(), [expected]);
    bench.take(text).expect("fine");
    assert!(bench.out.is_empty(), "it is no longer wanted");
}

#[test]
fn a_crossed_book_is_fetched_again_and_nothing_is_published_until_then() {
    let mut bench = Bench::new(&["coinbase/level2/A-B"]);
    bench.get(&update(A, "buy", "1.2"));
    bench.get(&snapshot(A));
    bench.get(&update(A, "buy", "1.5"));
    assert_eq!(
        bench.kinds(),
        ["snapshot", "l2update"],
        "updates are published from the snapshot on"
    );
    bench.get(&update(A, "sell", "1.5"));
    bench.get(&update(A, "buy", "1.2"));
    assert_eq!(bench.kinds(), [""; 0]);
    bench.tick(Duration::ZERO).expect("fine");
    assert_eq!(bench.requests(), RENEWAL);
    bench.get(&update(A, "buy", "1.2"));
    assert_eq!(bench.kinds(), [""; 0]);
    bench.get(&snapshot(A));
    bench.get(&update(A, "buy", "1.2"));
    assert_eq!(bench.kinds(), ["snapshot", "l2update"]);
}

#[test]
fn our_snapshots_are_marked_and_published_every_half_minute() {
    let mut bench = Bench::new(&["coinbase/level2/A-B"]);
    bench.get(&snapshot(A));
    assert_eq!(bench.out.pop().expect("an event").1.role, Role::Snapshot);
    bench.live(31, &[A]).expect("fine");
    assert!(bench.out.is_empty(), "nothing changed");
    bench.get(&update(A, "buy", "1.2"));
    assert_eq!(bench.out.pop().expect("an event").1.role, Role::Plain);
    bench.live(1, &[A]).expect("fine");
    assert_eq!(bench.out.pop().expect("an event").1.role, Role::Snapshot);
}

#[test]
fn no_snapshot_is_published_without_a_connection() {
    let mut bench = Bench::new(&["coinbase/level2/A-B"]);
    bench.get(&snapshot(A));
    bench.get(&update(A, "buy", "1.2"));
    assert_eq!(bench.kinds(), ["snapshot", "l2update"]);
    assert_eq!(bench.session.disconnect(), 2, "two events were published");
    bench.tick(Duration::from_mins(1)).expect("there is no connection");
    assert_eq!(bench.kinds(), [""; 0]);
}

#[test]
fn an_update_that_is_too_large_to_forward_becomes_a_snapshot() {
    let mut bench = Bench::new(&["coinbase/level2/A-B"]);
    bench.get(&snapshot(A));
    let changes: Vec<Value> =
        (0..8_000).map(|n| json!(["sell", format!("3.{n:04}"), "1"])).collect();
    bench.get(&json!({"type": "l2update", "product_id": A, "changes": changes}));
    assert_eq!(bench.kinds(), ["snapshot", "snapshot"]);
}

#[test]
fn an_unreadable_message_discards_the_book_of_the_product_that_it_names() {
    let mut bench = Bench::new(&["coinbase/level2/A-B", "coinbase/level2/C-D"]);
    bench.get(&snapshot(A));
    bench.get(&snapshot("C-D"));
    bench
        .take(r#"{"type":"l2update","product_id":"A-B","changes":[["buy","1e-8","1"]]}"#)
        .expect("the connection continues");
    bench.tick(Duration::ZERO).expect("fine");
    assert_eq!(bench.requests(), RENEWAL);
    bench.kinds();
    bench.get(&update("C-D", "buy", "1.5"));
    assert_eq!(bench.kinds(), ["l2update"]);
}

#[test]
fn a_trade_missed_on_a_connection_discards_the_book() {
    let mut bench = Bench::new(&["coinbase/level2/A-B", "coinbase/matches/A-B"]);
    bench.get(&snapshot(A));
    bench.get(&trade(A, 7));
    bench.get(&trade(A, 9));
    bench.tick(Duration::from_millis(249)).expect("fine");
    assert_eq!(bench.requests(), [""; 0], "it may be late");
    bench.tick(Duration::from_millis(1)).expect("fine");
    assert_eq!(bench.requests(), RENEWAL);
    let ids = 8..=8;
    assert_eq!(bench.session.take_chores(), [Chore::Fill { product: A.into(), ids: ids.clone() }]);
    bench.fill(A, &ids, vec![]);
    assert_eq!(bench.kinds(), ["snapshot", "match", "lost", "match"]);
    assert_eq!(bench.session.detail(bench.now), "1 trades were missed and could not be fetched");
    assert_eq!(bench.session.detail(bench.now + Duration::from_mins(10)), "");
}

#[test]
fn the_newest_trade_is_looked_up_in_the_log_once() {
    let mut bench = Bench::new(&[]);
    bench.want(&["coinbase/matches/A-B"]);
    let topic = Topic::parse("coinbase/matches/A-B").expect("a topic");
    assert_eq!(bench.session.take_chores(), [Chore::LookUp { product: A.into(), topic }]);
    bench.get(&trade(A, 9));
    assert!(bench.out.is_empty(), "it is held until the lookup is done");
    let out = &mut bench.out;
    let mut publish = |topic: &Topic, event| out.push((topic.clone(), event));
    bench.session.know(A, Some(Logged { trade: 8, lost: 0 }), bench.now, &mut publish);
    assert_eq!(bench.out.len(), 1);

    bench.get(&trade(A, 12));
    bench.want(&[]);
    bench.want(&["coinbase/matches/A-B"]);
    assert_eq!(bench.session.take_chores(), [], "it is already known");
    bench.get(&trade(A, 12));
    bench.tick(Duration::from_secs(1)).expect("fine");
    let ids = 10..=11;
    assert_eq!(bench.session.take_chores(), [Chore::Fill { product: A.into(), ids: ids.clone() }]);
    bench.want(&[]);
    bench.fill(A, &ids, vec![(10, Bytes::from_static(b"{}"))]);
    assert_eq!(bench.out.len(), 1, "they are no longer wanted");
}

#[test]
fn a_connection_without_messages_is_closed() {
    let mut bench = Bench::new(&["coinbase/ticker/A-B"]);
    bench.tick(Duration::from_millis(9_999)).expect("not yet");
    bench.session.on_sign_of_life(bench.now);
    bench.tick(Duration::from_secs(9)).expect("not yet");
    bench.session.on_binary(bench.now);
    let ended = bench.tick(Duration::from_secs(10));
    assert!(matches!(ended, Err(SessionError::Silent)), "{ended:?}");
    bench.session.disconnect();
    bench.tick(Duration::from_mins(1)).expect("there is no connection");
}

#[test]
fn missing_heartbeats_lead_to_a_renewal_and_then_to_a_new_connection() {
    let mut bench = Bench::new(&["coinbase/ticker/A-B", "coinbase/ticker/C-D"]);
    bench.agree(&[A, "C-D"]);
    bench.live(4, &["C-D"]).expect("not yet");
    assert_eq!(bench.requests(), [""; 0]);
    bench.live(1, &["C-D"]).expect("not the end");
    let channels = r#""product_ids":["A-B"],"channels":["heartbeat","ticker"]}"#;
    let renewal =
        ["unsubscribe", "subscribe"].map(|verb| format!(r#"{{"type":"{verb}",{channels}"#));
    assert_eq!(bench.requests(), renewal);
    bench.agree(&["C-D"]);
    bench.agree(&[A, "C-D"]);
    let ended = bench.live(6, &["C-D"]);
    assert!(matches!(&ended, Err(SessionError::Stalled(id)) if &**id == A), "{ended:?}");

    bench.session.disconnect();
    bench.session.connect(bench.now);
    bench.requests();
    bench.agree(&[A, "C-D"]);
    bench.live(6, &["C-D"]).expect("one product does not cause a reconnect");
    let expected =
        r#"{"type":"unsubscribe","product_ids":["A-B"],"channels":["heartbeat","ticker"]}"#;
    assert_eq!(bench.requests(), [expected]);
    assert_eq!(bench.session.detail(bench.now), "A-B rejected: heartbeats stopped");
}

#[test]
fn an_exchange_without_any_heartbeat_is_always_retried() {
    let mut bench = Bench::new(&["coinbase/ticker/A-B"]);
    for _ in 0..5 {
        bench.agree(&[A]);
        while bench.tick(Duration::from_millis(100)).is_ok() {
            bench.get(&json!({"type": "ticker", "product_id": A}));
            for _ in bench.requests() {
                bench.agree(&[A]);
            }
        }
        bench.session.disconnect();
        bench.session.connect(bench.now);
        assert_eq!(bench.requests().len(), 1);
    }
}

#[test]
fn products_that_are_not_traded_are_not_requested() {
    let mut bench = Bench::new(&[]);
    bench.session.know_catalog(Arc::new([A.to_owned()].into()));
    bench.want(&["coinbase/ticker/C-D"]);
    assert!(bench.session.is_idle());
    assert_eq!(bench.session.detail(bench.now), "not traded: C-D");
    bench.want(&["coinbase/ticker/A-B", "coinbase/ticker/C-D"]);
    assert!(bench.requests().concat().contains(r#""product_ids":["A-B"]"#));
    bench.session.know_catalog(Arc::new([A.to_owned(), "C-D".to_owned()].into()));
    assert!(bench.requests().concat().contains(r#""product_ids":["C-D"]"#));
    assert_eq!(bench.session.detail(bench.now), "");
}

#[test]
fn unexpected_messages_are_counted_and_do_not_end_the_connection() {
    let mut bench = Bench::new(&["coinbase/ticker/A-B", "coinbase/matches/A-B"]);
    bench.agree(&[A]);
    for text in ["", "[]", r#"["open","A-B"]"#, r#"{"type":"match","product_id":"A-B"}"#, "{"] {
        bench.take(text).expect("the connection continues");
    }
    let large = json!({"type": "ticker", "product_id": A, "x": "x".repeat(MAX_EVENT_BYTES)});
    bench.get(&large);
    bench.get(&json!({"type": "brand_new", "product_id": A}));
    bench.get(&json!({"type": "error", "message": "hm"}));
    let tally = &bench.session.tally;
    assert_eq!((tally.garbage.count(), tally.unknown.count(), tally.errors.count()), (6, 1, 1));
    assert!(bench.out.is_empty());
    let slow = json!({"type": "error", "message": "ErrSlowConsume", "reason": "too slow"});
    let ended = bench.take(&slow.to_string());
    assert!(matches!(ended, Err(SessionError::Rejected(_))), "{ended:?}");
}

#[test]
fn a_rejected_product_is_named_and_the_others_stream() {
    let mut bench = Bench::new(&["coinbase/ticker/A-B", "coinbase/ticker/C-D"]);
    let error = json!({"type": "error", "message": "Failed to subscribe",
        "reason": "C-D is not a valid product"});
    bench.get(&error);
    let expected =
        r#"{"type":"subscribe","product_ids":["A-B"],"channels":["heartbeat","ticker"]}"#;
    assert_eq!(bench.requests(), [expected]);
    assert_eq!(bench.session.detail(bench.now), "C-D rejected: C-D is not a valid product");
    bench.want(&["coinbase/ticker/C-D"]);
    assert!(bench.session.is_idle());
}

proptest! {
    #[test]
    fn no_text_panics(texts in proptest::collection::vec(any_text(), 0..20)) {
        let topics = ["coinbase/ticker/A-B", "coinbase/matches/A-B", "coinbase/level2/A-B"];
        let mut bench = Bench::new(&topics);
        for text in texts {
            let _ = bench.take(&text);
            let _ = bench.tick(Duration::from_millis(300));
            bench.requests();
            for chore in bench.session.take_chores() {
                if let Chore::Fill { product, ids } = chore {
                    bench.fill(&product, &ids, vec![]);
                }
            }
        }
        for (_, event) in bench.out.iter().filter(|(_, event)| !matches!(event.role, Role::Lost(_))) {
            let json = serde_json::from_slice::<Value>(&event.json);
            prop_assert!(json.is_ok_and(|json| json.is_object()));
        }
    }
}

/// Messages that are partly valid.
fn any_text() -> impl Strategy<Value = String> {
    let kind = "(ticker|match|last_match|l2update|snapshot|heartbeat|subscriptions|error|x)";
    let levels =
        "(asks|bids|changes)\":\\[(\\[\"(buy\",\")?[0-9.]{1,4}\",\"[0-9.]{1,4}\"\\],?){0,3}\\]";
    let fields = format!(
        "\\{{\"type\":\"{kind}\",\"product_id\":\"A-B\",\"(last_)?trade_id\":[0-9]{{1,20}},\"{levels}\\}}?"
    );
    prop_oneof![
        proptest::string::string_regex(&fields).expect("a pattern"),
        "\\PC{0,60}",
        Just(snapshot(A).to_string()),
        any::<u64>().prop_map(|id| trade(A, id).to_string()),
    ]
}
