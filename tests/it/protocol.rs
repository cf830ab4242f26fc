//! The WebSocket protocol, message by message.

use harness::{Client, ExchangeServer, Headwater, Program, Setup, until};
use jiff::Timestamp;
use serde_json::{Value, json};

const SECRET: &str = "a secret of at least thirty-two bytes";

#[tokio::test]
async fn hello_returns_the_principal_and_its_class() {
    let headwater = Headwater::start().await;
    let mut one = headwater.client().await;
    let mut other = headwater.client().await;
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
async fn topics_can_be_subscribed_listed_and_unsubscribed() {
    let headwater = Headwater::start().await;
    let mut client = headwater.client().await;
    let tag = "mastodon/tag/rust";
    let public = "mastodon/public";
    let answer = client.subscribe(&[tag, public]).await;
    let expected = json!([{"topic": public, "seq": 0}, {"topic": tag, "seq": 0}]);
    assert_eq!(answer["topics"], expected);
    assert_eq!(client.ask(json!({"action": "list"})).await["topics"], json!([public, tag]));
    client.subscribe(&[public]).await;
    let left = client.ask(json!({"action": "unsubscribe", "topics": [tag]})).await;
    assert_eq!((&left["type"], &left["topics"]), (&json!("unsubscribed"), &json!([tag])));
    let left = client.ask(json!({"action": "unsubscribe", "topics": [tag]})).await;
    assert_eq!(left["topics"], json!([]), "it was already unsubscribed");
    let listed = client.ask(json!({"action": "list"})).await;
    let heads = json!({public: 0});
    assert_eq!((&listed["topics"], &listed["heads"]), (&json!([public]), &heads));
    let pong = client.ask(json!({"action": "ping"})).await;
    assert_eq!((&pong["type"], &pong["heads"]), (&json!("pong"), &heads));
    let at: Timestamp = pong["at"].as_str().unwrap().parse().unwrap();
    assert!(at.duration_since(Timestamp::now()).as_secs().abs() < 60);
}

#[tokio::test]
async fn an_unknown_topic_does_not_affect_the_other_topics() {
    let exchange = ExchangeServer::start().await.unwrap();
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
    assert!(
        error["message"].as_str().unwrap().contains("BTC-USD"),
        "the error suggests a topic: {error}"
    );
    let subscribed = client.expect("subscribed").await;
    assert_eq!(subscribed["id"], "x");
    assert_eq!(subscribed["topics"].as_array().unwrap().len(), 4, "{subscribed}");
}

#[tokio::test]
async fn topics_are_normalized() {
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
async fn an_invalid_message_does_not_close_the_connection() {
    let headwater = Headwater::setup().option("--messages-per-second", "100").start().await;
    let mut client = headwater.client().await;
    let long = "x".repeat(65);
    let cases = [
        ("not JSON", "hello".to_owned(), "bad_request", None),
        ("an empty message", String::new(), "bad_request", None),
        ("truncated JSON", r#"{"action":"pi"#.to_owned(), "bad_request", None),
        ("a list", "[]".to_owned(), "bad_request", None),
        ("no action", r#"{"id":"1"}"#.to_owned(), "bad_request", Some("1")),
        (
            "an action that is not text",
            r#"{"action":7,"id":"2"}"#.to_owned(),
            "bad_request",
            Some("2"),
        ),
        ("unknown", r#"{"action":"dance","id":"3"}"#.to_owned(), "unknown_action", Some("3")),
        ("an id that is not text", r#"{"action":"ping","id":4}"#.to_owned(), "bad_request", None),
        ("a long id", format!(r#"{{"action":"ping","id":"{long}"}}"#), "bad_request", None),
        ("no topics", r#"{"action":"subscribe","id":"5"}"#.to_owned(), "bad_request", Some("5")),
        (
            "an empty list of topics",
            r#"{"action":"subscribe","id":"6","topics":[]}"#.to_owned(),
            "bad_request",
            Some("6"),
        ),
        (
            "an unknown topic",
            r#"{"action":"subscribe","id":"7","topics":["nonsense/é"]}"#.to_owned(),
            "unknown_topic",
            Some("7"),
        ),
        (
            "too many past events",
            r#"{"action":"subscribe","id":"8","topics":["mastodon/public"],"last":1001}"#
                .to_owned(),
            "bad_request",
            Some("8"),
        ),
        (
            "a replay with an empty range",
            r#"{"action":"replay","id":"9","topic":"mastodon/public","from":2,"to":1}"#.to_owned(),
            "bad_request",
            Some("9"),
        ),
        (
            "a replay of too many events",
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
    let mut fast = headwater.client().await;
    let mut other = headwater.client().await;
    for _ in 0..12 {
        fast.send(&json!({"action": "ping"})).await;
    }
    assert_eq!(fast.expect("error").await["code"], "rate_limited");
    assert_eq!(
        other.ask(json!({"action": "ping"})).await["type"],
        "pong",
        "other clients are not limited"
    );
    until("the client may send again", async || {
        fast.send(&json!({"action": "list"})).await;
        let answer = fast.expect_one_of(&["subscriptions", "error"]).await;
        (answer["type"] == "subscriptions").then_some(())
    })
    .await;
}

#[tokio::test]
async fn topics_above_the_limit_are_rejected_and_the_others_are_accepted() {
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
    assert_eq!(client.expect("pong").await["id"], "1", "a message below the limit");
}

#[tokio::test]
async fn the_subprotocol_is_negotiated_and_others_are_rejected() {
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
async fn a_token_identifies_the_principal_and_an_invalid_one_is_rejected() {
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
        let rejected = Client::try_connect(headwater.address, &path, &[]).await.err();
        assert_eq!(rejected, Some(401), "case: {name}");
        let bearer = format!("bearer.{token}");
        let offered = ["headwater.v1", bearer.as_str()];
        let rejected = Client::try_connect(headwater.address, "/live", &offered).await.err();
        assert_eq!(rejected, Some(401), "case: {name}");
    }
}

#[tokio::test]
async fn without_a_secret_every_token_is_rejected() {
    let headwater = Headwater::start().await;
    let path = format!("/live?token={}", token(SECRET, &[]).await);
    let rejected = Client::try_connect(headwater.address, &path, &[]).await.err();
    assert_eq!(rejected, Some(401));
}

#[tokio::test]
async fn one_connection_can_have_many_messages_in_flight() {
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
async fn clients_do_not_notice_shards() {
    let exchange = ExchangeServer::start().await.unwrap();
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
