//! The WebSocket protocol, message by message.

use harness::{Client, Exchange, Headwater, Program, Setup, until};
use jiff::Timestamp;
use serde_json::{Value, json};

const SECRET: &str = "a secret of at least thirty-two bytes";

#[tokio::test]
async fn hello_returns_the_principal_and_its_class() {
    let headwater = Headwater::start().await;
    let (mut one, mut other) = (headwater.client().await, headwater.client().await);
    one.send(&json!({"action": "hello", "id": "a b"})).await;
    let welcome = one.expect("welcome").await;
    assert_eq!(welcome["id"], "a b");
    assert_eq!(welcome["class"], "anonymous");
    assert_eq!(welcome["principal"], "anonymous");
    assert_eq!(welcome["limits"], json!({"topics": 50, "messagesPerSecond": 10}));
    let expires: Timestamp = welcome["expiresAt"].as_str().unwrap().parse().unwrap();
    let minutes = expires.duration_since(Timestamp::now()).as_mins();
    assert!((110..=120).contains(&minutes), "API Gateway ends connections after two hours");
    assert_eq!(one.hello().await["connectionToken"], welcome["connectionToken"]);
    let others = other.hello().await;
    assert_ne!(others["connectionId"], welcome["connectionId"]);
    assert_ne!(others["connectionToken"], welcome["connectionToken"]);
}

#[tokio::test]
async fn topics_are_subscribed_to_listed_and_left() {
    let headwater = Headwater::start().await;
    let mut client = headwater.client().await;
    let (tag, public) = ("mastodon/tag/rust", "mastodon/public");
    let answer = client.subscribe(&[tag, public]).await;
    let expected = json!([{"topic": public, "seq": 0}, {"topic": tag, "seq": 0}]);
    assert_eq!(answer["topics"], expected);
    assert_eq!(client.ask(json!({"action": "list"})).await["topics"], json!([public, tag]));
    client.subscribe(&[public]).await;
    let left = client.ask(json!({"action": "unsubscribe", "topics": [tag]})).await;
    assert_eq!((&left["type"], &left["topics"]), (&json!("unsubscribed"), &json!([tag])));
    let left = client.ask(json!({"action": "unsubscribe", "topics": [tag]})).await;
    assert_eq!(left["topics"], json!([]), "it was left before");
    assert_eq!(client.ask(json!({"action": "list"})).await["topics"], json!([public]));
    let pong = client.ask(json!({"action": "ping"})).await;
    assert_eq!(pong["type"], "pong");
    let at: Timestamp = pong["at"].as_str().unwrap().parse().unwrap();
    assert!(at.duration_since(Timestamp::now()).as_secs().abs() < 60);
}

#[tokio::test]
async fn of_five_topics_the_one_that_does_not_exist_is_refused() {
    let exchange = Exchange::start().await;
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    let topics = [
        "coinbase/ticker/BTC-USD",
        "coinbase/ticker/BTC-USDD",
        "mastodon/public",
        "mastodon/lang/en",
        "system/sources",
    ];
    client.send(&json!({"action": "subscribe", "id": "x", "topics": topics})).await;
    let error = client.expect("error").await;
    assert_eq!(error["id"], "x");
    assert_eq!(error["code"], "unknown_topic");
    assert_eq!(error["topic"], "coinbase/ticker/BTC-USDD");
    assert!(error["message"].as_str().unwrap().contains("BTC-USD"), "names the nearest: {error}");
    let subscribed = client.expect("subscribed").await;
    assert_eq!(subscribed["id"], "x");
    assert_eq!(subscribed["topics"].as_array().unwrap().len(), 4, "{subscribed}");
}

#[tokio::test]
async fn a_topic_has_one_spelling() {
    let headwater = Headwater::start().await;
    let mut client = headwater.client().await;
    let cases = [
        ("mastodon/tag/RustLang", "mastodon/tag/rustlang"),
        ("coinbase/ticker/%42TC-USD", "coinbase/ticker/BTC-USD"),
        ("mastodon/server/Mastodon.Social", "mastodon/server/mastodon.social"),
        ("mastodon/tag/%e6%97%a5", "mastodon/tag/%E6%97%A5"),
    ];
    for (spelled, canonical) in cases {
        let answer = client.subscribe(&[spelled]).await;
        assert_eq!(answer["topics"][0]["topic"], canonical);
        let left = client.ask(json!({"action": "unsubscribe", "topics": [canonical]})).await;
        assert_eq!(left["topics"], json!([canonical]));
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_message_the_connection_stays() {
    let headwater = Headwater::setup().option("--messages-per-second", "100").start().await;
    let mut client = headwater.client().await;
    let long = "x".repeat(65);
    let cases = [
        ("not JSON", "hello".to_owned(), "bad_request", None),
        ("nothing", String::new(), "bad_request", None),
        ("half", r#"{"action":"pi"#.to_owned(), "bad_request", None),
        ("a list", "[]".to_owned(), "bad_request", None),
        ("no action", r#"{"id":"1"}"#.to_owned(), "bad_request", Some("1")),
        ("an action that is none", r#"{"action":7,"id":"2"}"#.to_owned(), "bad_request", Some("2")),
        ("unknown", r#"{"action":"dance","id":"3"}"#.to_owned(), "unknown_action", Some("3")),
        ("an id that is none", r#"{"action":"ping","id":4}"#.to_owned(), "bad_request", None),
        ("a long id", format!(r#"{{"action":"ping","id":"{long}"}}"#), "bad_request", None),
        ("no topics", r#"{"action":"subscribe","id":"5"}"#.to_owned(), "bad_request", Some("5")),
        (
            "no topic",
            r#"{"action":"subscribe","id":"6","topics":[]}"#.to_owned(),
            "bad_request",
            Some("6"),
        ),
        (
            "a topic that is none",
            r#"{"action":"subscribe","id":"7","topics":["nonsense/é"]}"#.to_owned(),
            "unknown_topic",
            Some("7"),
        ),
        (
            "too much of the past",
            r#"{"action":"subscribe","id":"8","topics":["mastodon/public"],"last":1001}"#
                .to_owned(),
            "bad_request",
            Some("8"),
        ),
        (
            "a replay that ends before it begins",
            r#"{"action":"replay","id":"9","topic":"mastodon/public","from":2,"to":1}"#.to_owned(),
            "bad_request",
            Some("9"),
        ),
        (
            "a replay without end",
            r#"{"action":"replay","id":"10","topic":"mastodon/public","from":1,"to":99999}"#
                .to_owned(),
            "bad_request",
            Some("10"),
        ),
    ];
    for (name, text, code, id) in cases {
        client.send_text(&text).await;
        let error = client.expect("error").await;
        assert_eq!(error["code"], code, "case: {name}: {error}");
        assert_eq!(error["id"].as_str(), id, "case: {name}: {error}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "case: {name}");
    }
    let more = json!({"action": "ping", "newInTheNextVersion": {"a": [1]}});
    assert_eq!(client.ask(more).await["type"], "pong");
}

#[tokio::test]
async fn a_client_that_sends_too_fast_is_rate_limited_and_can_continue_later() {
    let headwater = Headwater::setup().option("--messages-per-second", "5").start().await;
    let (mut hasty, mut other) = (headwater.client().await, headwater.client().await);
    for _ in 0..12 {
        hasty.send(&json!({"action": "ping"})).await;
    }
    assert_eq!(hasty.expect("error").await["code"], "rate_limited");
    assert_eq!(other.ask(json!({"action": "ping"})).await["type"], "pong", "others may");
    until("the hasty one may send again", async || {
        hasty.send(&json!({"action": "list"})).await;
        let answer = hasty.expect_one_of(&["subscriptions", "error"]).await;
        (answer["type"] == "subscriptions").then_some(())
    })
    .await;
}

#[tokio::test]
async fn topics_past_the_limit_are_refused_and_the_others_stand() {
    let headwater = Headwater::setup().option("--topics-per-connection", "3").start().await;
    let mut client = headwater.client().await;
    client.subscribe(&["mastodon/lang/de"]).await;
    let topics: Vec<String> =
        ["en", "es", "fr", "it"].iter().map(|code| format!("mastodon/lang/{code}")).collect();
    client.send(&json!({"action": "subscribe", "id": "1", "topics": topics})).await;
    for _ in 0..2 {
        let error = client.expect("error").await;
        assert_eq!((&error["code"], &error["id"]), (&json!("too_many_topics"), &json!("1")));
        assert!(topics.iter().any(|topic| error["topic"] == **topic), "{error}");
    }
    let subscribed = client.expect("subscribed").await;
    assert_eq!(subscribed["topics"].as_array().unwrap().len(), 2, "{subscribed}");
    let listed = client.ask(json!({"action": "list"})).await;
    assert_eq!(listed["topics"].as_array().unwrap().len(), 3, "{listed}");
    client.ask(json!({"action": "unsubscribe", "topics": ["mastodon/lang/de"]})).await;
    client.subscribe(&["mastodon/lang/it"]).await;
}

#[tokio::test]
async fn binary_and_oversized_messages_end_the_connection_with_the_right_code() {
    let headwater = Headwater::start().await;
    let mut client = headwater.client().await;
    client.send_binary(br#"{"action":"ping"}"#).await;
    assert_eq!(client.closed().await.0, 1003);
    let mut client = headwater.client().await;
    client.send_text(&format!(r#"{{"action":"ping","x":"{}"}}"#, "x".repeat(33_000))).await;
    assert_eq!(client.closed().await.0, 1009);
    let mut client = headwater.client().await;
    let text = format!(r#"{{"action":"ping","id":"1","x":"{}"}}"#, "x".repeat(32_000));
    client.send_text(&text).await;
    assert_eq!(client.expect("pong").await["id"], "1", "a large one that is not too large");
}

#[tokio::test]
async fn the_subprotocol_is_answered_and_others_are_refused() {
    let headwater = Headwater::start().await;
    let connect = |protocols: &'static [&'static str]| {
        Client::try_connect(headwater.address, "/live", protocols)
    };
    let client = connect(&["headwater.v1"]).await.unwrap();
    assert_eq!(client.subprotocol.as_deref(), Some("headwater.v1"));
    let client = connect(&["chat", "headwater.v1"]).await.unwrap();
    assert_eq!(client.subprotocol.as_deref(), Some("headwater.v1"));
    assert_eq!(connect(&[]).await.unwrap().subprotocol, None);
    assert_eq!(connect(&["chat"]).await.err(), Some(400));
}

#[tokio::test]
async fn a_token_names_its_bearer_and_a_bad_one_is_refused() {
    let headwater = Headwater::setup().option("--jwt-secret", SECRET).start().await;
    let token = token(SECRET, &["--class", "trader", "--subject", "ann"]).await;
    let bearer = format!("bearer.{token}");
    let offered = ["headwater.v1", bearer.as_str()];
    let mut client = Client::try_connect(headwater.address, "/live", &offered).await.unwrap();
    assert_eq!(client.subprotocol.as_deref(), Some("headwater.v1"));
    let welcome = client.hello().await;
    assert_eq!((&welcome["class"], &welcome["principal"]), (&json!("trader"), &json!("ann")));
    let path = format!("/live?token={token}");
    let mut client = Client::try_connect(headwater.address, &path, &[]).await.unwrap();
    assert_eq!(client.hello().await["class"], "trader");

    let expired = self::token(SECRET, &["--term", "0s"]).await;
    let forged = self::token("another secret of thirty-two bytes", &[]).await;
    let changed = format!("{}x", &token[..token.len() - 1]);
    for (name, token) in [
        ("expired", expired.as_str()),
        ("forged", forged.as_str()),
        ("changed", changed.as_str()),
        ("no token", "nonsense"),
    ] {
        let path = format!("/live?token={token}");
        let refused = Client::try_connect(headwater.address, &path, &[]).await.err();
        assert_eq!(refused, Some(401), "case: {name}");
        let bearer = format!("bearer.{token}");
        let offered = ["headwater.v1", bearer.as_str()];
        let refused = Client::try_connect(headwater.address, "/live", &offered).await.err();
        assert_eq!(refused, Some(401), "case: {name}");
    }
}

#[tokio::test]
async fn without_a_secret_every_token_is_refused() {
    let headwater = Headwater::start().await;
    let path = format!("/live?token={}", token(SECRET, &[]).await);
    let refused = Client::try_connect(headwater.address, &path, &[]).await.err();
    assert_eq!(refused, Some(401));
}

#[tokio::test]
async fn messages_of_one_connection_can_be_many_at_once() {
    let headwater = Headwater::setup().option("--messages-per-second", "500").start().await;
    let mut client = headwater.client().await;
    for id in 0..200 {
        client.send(&json!({"action": "ping", "id": id.to_string()})).await;
    }
    let mut ids = Vec::new();
    for _ in 0..200 {
        let pong: Value = client.expect("pong").await;
        ids.push(pong["id"].as_str().unwrap().parse::<u32>().unwrap());
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn shards_are_nothing_that_a_client_sees() {
    let exchange = Exchange::start().await;
    let setup: Setup = Headwater::setup().exchange(&exchange);
    let headwater = setup.option("--shards", "4").start().await;
    let topic = "coinbase/matches/BTC-USD";
    let mut clients = Vec::new();
    for _ in 0..12 {
        let mut client = headwater.client().await;
        client.subscribe(&[topic]).await;
        clients.push(client);
    }
    exchange.subscribed("matches", "BTC-USD").await;
    let ids: Vec<u64> = (0..20).map(|_| exchange.trade("BTC-USD")).collect();
    for client in &mut clients {
        let events = client.events(topic, ids.len()).await;
        assert_eq!(events.iter().map(harness::Event::trade_id).collect::<Vec<_>>(), ids);
        assert_eq!(events[0].seq, 1);
    }
}

async fn token(secret: &str, more: &[&str]) -> String {
    let arguments: Vec<&str> = ["token"].iter().chain(more).copied().collect();
    let made = Program::run(&arguments, &[("HEADWATER_JWT_SECRET", secret)]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    made.stdout.trim().to_owned()
}
