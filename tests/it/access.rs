//! Access control: every class, every topic, every way to read it, and attempts to bypass the rules.

use harness::{Client, ExchangeServer, Headwater, Rest, Setup, token, until};
use serde_json::{Value, json};

const TICKER: &str = "coinbase/ticker/BTC-USD";
const MATCHES: &str = "coinbase/matches/BTC-USD";
const LEVEL2: &str = "coinbase/level2/BTC-USD";
const TAG: &str = "mastodon/tag/rust";
const STATES: &str = "system/sources";

const TOPICS: [&str; 5] = [TICKER, MATCHES, LEVEL2, TAG, STATES];

/// The rights of each class to [`TOPICS`]. `None` means no token.
const TABLE: [(Option<&str>, [bool; 5]); 6] = [
    (None, [true, false, false, true, true]),
    (Some("stranger"), [true, false, false, true, true]),
    (Some("member"), [true, true, false, true, true]),
    (Some("trader"), [true, true, true, true, true]),
    (Some("admin"), [true, true, true, true, true]),
    (Some("member,stranger"), [true, true, false, true, true]),
];

fn setup(exchange: &ExchangeServer) -> Setup {
    Headwater::setup()
        .exchange(exchange)
        .with_tokens()
        // The rate limit must not interfere.
        .option("--messages-per-second", "1000")
        .option("--coinbase-record", "matches/BTC-USD")
}

/// Connects as a class, and returns the client and a REST client of the same class.
async fn connect_as(headwater: &Headwater, class: Option<&str>) -> (Client, Rest) {
    match class {
        None => (headwater.client().await, headwater.rest()),
        Some(class) => {
            let token = token(&["--class", class, "--subject", class]).await;
            let rest = headwater.rest().with("authorization", &format!("Bearer {token}"));
            (headwater.client_with(&token).await.unwrap(), rest)
        }
    }
}

/// Returns whether a subscription was accepted. If not, the error must be `forbidden`.
fn is_subscribed(answer: &Value, topic: &str) -> bool {
    if answer["type"] == "error" {
        assert_eq!((&answer["code"], &answer["topic"]), (&json!("forbidden"), &json!(topic)));
        return false;
    }
    assert_eq!(answer["type"], "subscribed", "{answer}");
    true
}

/// Returns whether a REST request was successful. If not, the status must be 403.
fn is_success(status: u16, what: &str) -> bool {
    assert!(matches!(status, 200 | 201 | 403), "{what}: {status}");
    status != 403
}

#[tokio::test]
async fn every_class_can_read_its_topics_and_no_others() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = setup(&exchange).start().await;
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..3 {
        exchange.trade("BTC-USD");
    }
    let (mut trader, _) = connect_as(&headwater, Some("trader")).await;
    trader.subscribe_with(&[MATCHES], json!({"last": 3})).await;
    trader.events(MATCHES, 3).await;
    for (class, expected) in TABLE {
        let (mut client, rest) = connect_as(&headwater, class).await;
        let welcome = client.hello().await;
        let own = rest.of(&welcome);
        for (topic, expected) in TOPICS.into_iter().zip(expected) {
            let case = format!("{class:?} {topic}");
            let ways = [
                ("subscribe", json!({"action": "subscribe", "topics": [topic]})),
                ("since", json!({"action": "subscribe", "topics": [topic], "since": {topic: 0}})),
                ("last", json!({"action": "subscribe", "topics": [topic], "last": 10})),
            ];
            for (way, request) in ways {
                let answer = client.ask(request).await;
                assert_eq!(is_subscribed(&answer, topic), expected, "case: {case} {way}");
                if expected {
                    let stop = json!({"action": "unsubscribe", "topics": [topic]});
                    let left = client.ask(stop).await;
                    assert_eq!(left["topics"], json!([topic]), "case: {case} {way}");
                }
            }
            let path = format!("/api/v1/subscriptions/{topic}");
            let status = own.post(&path).await.status;
            assert_eq!(is_success(status, &case), expected, "case: {case} REST subscriptions");
            if let Some((channel, pair)) = pair_of(topic) {
                let path = format!("/api/v1/subscribe/{pair}?channel={channel}");
                let status = own.post(&path).await.status;
                assert_eq!(is_success(status, &case), expected, "case: {case} REST subscribe");
            }
            let status = rest.get(&format!("/api/v1/history/{topic}")).await.status;
            assert_eq!(is_success(status, &case), expected, "case: {case} REST history");
            let listed = rest.get(&format!("/api/v1/topics?q={topic}")).await.json();
            let named = listed["topics"].as_array().unwrap().iter().any(|it| it["topic"] == topic);
            assert!(expected || !named, "case: {case} catalog");
        }
        // A replay of a forbidden topic is rejected; a replay of an allowed one succeeds.
        let request = json!({"action": "replay", "id": "r", "topic": MATCHES, "from": 1, "to": 3});
        if expected[1] {
            assert_eq!(client.replay(MATCHES, 1..=3).await.len(), 3, "case: {class:?} replay");
        } else {
            client.send(&request).await;
            let error = client.expect("error").await;
            let reported = (&error["id"], &error["code"], &error["topic"]);
            assert_eq!(reported, (&json!("r"), &json!("forbidden"), &json!(MATCHES)), "{class:?}");
            assert_eq!(client.drain(MATCHES), [], "case: {class:?} replay");
        }
    }
}

fn pair_of(topic: &str) -> Option<(&str, &str)> {
    topic.strip_prefix("coinbase/")?.split_once('/')
}

#[tokio::test]
async fn a_blocked_principal_is_rejected_in_any_class() {
    let headwater = Headwater::setup().with_tokens().start().await;
    for class in ["blocked", "trader,blocked", "blocked,admin"] {
        let token = token(&["--class", class]).await;
        assert_eq!(headwater.client_with(&token).await.err(), Some(403), "case: {class}");
        let path = format!("/live?token={token}");
        let rejected = Client::try_connect(headwater.address, &path, &[]).await.err();
        assert_eq!(rejected, Some(403), "case: {class}");
        let rest = headwater.rest().with("authorization", &format!("Bearer {token}"));
        for path in ["/api/v1/status", "/api/v1/topics", "/api/v1/history/mastodon/public"] {
            assert_eq!(rest.get(path).await.status, 403, "case: {class} {path}");
        }
        assert_eq!(rest.get("/healthz").await.status, 200, "case: {class}");
    }
}

#[tokio::test]
async fn no_spelling_of_a_topic_bypasses_the_rules() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = setup(&exchange).start().await;
    exchange.subscribed("matches", "BTC-USD").await;
    let mut client = headwater.client().await;
    let rest = headwater.rest().of(&client.hello().await);
    let spellings = [
        "coinbase/%6Datches/BTC-USD",
        "coinbase/matches/%42TC-USD",
        "%63oinbase/matches/BTC-USD",
        "coinbase%2Fmatches%2FBTC-USD",
        "coinbase%2fmatches/BTC-USD",
        "coinbase/MATCHES/BTC-USD",
        "Coinbase/matches/BTC-USD",
        "coinbase/matches/btc-usd",
        "coinbase//matches/BTC-USD",
        "/coinbase/matches/BTC-USD",
        "coinbase/matches/BTC-USD/",
        "coinbase/ticker/../matches/BTC-USD",
        "coinbase/./matches/BTC-USD",
        "coinbase/matches/BTC-USD%00",
        "coinbase/matches/BTC-USD#x",
        "coinbase/matches/BTC-USD?x",
        " coinbase/matches/BTC-USD",
        "coinbase/matches/BTC\u{2010}USD",
        "coinbase/\u{ff4d}atches/BTC-USD",
        "coinbase/m\u{430}tches/BTC-USD",
        "coinbase/%256Datches/BTC-USD",
        "coinbase/matches",
        "coinbase/matches/*",
        "coinbase/*/BTC-USD",
    ];
    for spelling in spellings {
        for more in [json!({}), json!({"last": 10}), json!({"since": {spelling: 0}})] {
            let mut request = json!({"action": "subscribe", "topics": [spelling]});
            for (name, value) in more.as_object().unwrap() {
                request[name] = value.clone();
            }
            let answer = client.ask(request).await;
            assert_eq!(answer["type"], "error", "case: {spelling}: {answer}");
        }
        let request = json!({"action": "replay", "topic": spelling, "from": 1, "to": 9});
        let answer = client.ask(request).await;
        assert_eq!(answer["type"], "error", "case: {spelling}: {answer}");
        if spelling.chars().all(|c| c.is_ascii_graphic() && c != '#') {
            for path in ["history", "subscriptions"] {
                let path = format!("/api/v1/{path}/{spelling}");
                let answer = if path.contains("history") {
                    rest.get(&path).await
                } else {
                    rest.post(&path).await
                };
                assert!((400..500).contains(&answer.status), "case: {path}: {answer:?}");
            }
        }
    }
    for path in [
        "/api/v1/subscribe/BTC-USD?channel=matches",
        "/api/v1/subscribe/BTC-USD?channel=ticker&channel=matches",
        "/api/v1/subscribe/BTC-USD?channel=%6Datches",
        "/api/v1/subscribe/%42TC-USD?channel=matches",
        "/api//v1/history/coinbase/matches/BTC-USD",
        "/api/v1/./history/coinbase/matches/BTC-USD",
        "/API/v1/history/coinbase/matches/BTC-USD",
        "/x/api/v1/history/coinbase/matches/BTC-USD",
    ] {
        assert!((400..500).contains(&rest.post(path).await.status), "case: {path}");
        // At an address outside the interface, the page may be served.
        let answer = rest.get(path).await;
        let is_page = answer.status == 200 && !answer.text.contains("\"events\"");
        assert!(is_page || (400..500).contains(&answer.status), "case: {path}: {answer:?}");
    }
    // The connection has no subscription, and receives no event.
    assert_eq!(client.ask(json!({"action": "list"})).await["topics"], json!([]));
    exchange.trade("BTC-USD");
    let (mut trader, _) = connect_as(&headwater, Some("trader")).await;
    trader.subscribe_with(&[MATCHES], json!({"last": 1})).await;
    trader.event(MATCHES).await;
    client.ask(json!({"action": "ping"})).await;
    assert_eq!(client.drain(MATCHES), []);
}

#[tokio::test]
async fn a_connection_accepts_only_its_own_connection_token() {
    let headwater = Headwater::setup().with_tokens().start().await;
    let (mut trader, trader_rest) = connect_as(&headwater, Some("trader")).await;
    let (mut eve, eve_rest) = connect_as(&headwater, None).await;
    let theirs = trader.hello().await;
    let own = eve.hello().await;
    let path = format!("/api/v1/subscriptions/{LEVEL2}");
    let mixed = |id: &Value, token: &Value| json!({"connectionId": id, "connectionToken": token});
    let cases = [
        // Another connection with one's own token, and one's own connection with another token.
        (mixed(&theirs["connectionId"], &own["connectionToken"]), 403),
        (mixed(&own["connectionId"], &theirs["connectionToken"]), 403),
        (mixed(&theirs["connectionId"], &json!("")), 403),
        (mixed(&json!("AAAAAAAAAAAAAAA="), &own["connectionToken"]), 403),
        // One's own connection, which lacks the right.
        (own.clone(), 403),
    ];
    for (welcome, status) in cases {
        let answer = eve_rest.of(&welcome).post(&path).await;
        assert_eq!(answer.status, status, "case: {welcome}");
        // The class of the REST client does not matter, only that of the connection.
        let answer = trader_rest.of(&welcome).post(&path).await;
        assert_eq!(answer.status, status, "case: {welcome}, as a trader");
    }
    assert_eq!(trader_rest.of(&theirs).post(&path).await.status, 201);
    assert_eq!(eve.ask(json!({"action": "list"})).await["topics"], json!([]));
    // The token of a closed connection is rejected.
    trader.close().await;
    until("the connection is closed", async || {
        (trader_rest.of(&theirs).post(&path).await.status == 410).then_some(())
    })
    .await;
    // With tokens, the gateway's management API is disabled.
    let id = own["connectionId"].as_str().unwrap();
    let path = format!("/live/@connections/{id}");
    assert_eq!(headwater.rest().post(&path).await.status, 403);
    assert_eq!(headwater.rest().delete(&path).await.status, 403);
    assert_eq!(eve.ask(json!({"action": "ping"})).await["type"], "pong");
}

#[tokio::test]
async fn an_invalid_token_is_never_treated_as_anonymous() {
    let headwater = Headwater::setup().with_tokens().start().await;
    let part = |json: &str| {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let bits = |chunk: &[u8]| {
            let bytes = chunk.iter().fold(0_u32, |bytes, byte| bytes << 8 | u32::from(*byte));
            let padded = bytes << (8 * (3 - chunk.len()));
            let digit = |n: usize| char::from(DIGITS[(padded >> (18 - 6 * n) & 63) as usize]);
            (0..=chunk.len()).map(digit).collect::<String>()
        };
        json.as_bytes().chunks(3).map(bits).collect::<String>()
    };
    let claims = part(r#"{"sub":"eve","exp":9999999999,"classes":["trader"]}"#);
    let good = token(&["--class", "trader"]).await;
    let expired = token(&["--term", "0s"]).await;
    let for_others = token(&["--jwt-audience", "somebody-else"]).await;
    let cases = [
        ("nonsense", "nonsense".to_owned()),
        ("alg none", format!("{}.{claims}.", part(r#"{"alg":"none"}"#))),
        ("alg None", format!("{}.{claims}.", part(r#"{"alg":"NONE","typ":"JWT"}"#))),
        ("no signature", format!("{}.{claims}.", part(r#"{"alg":"HS256","typ":"JWT"}"#))),
        ("another token's signature", {
            let (head, rest) = good.split_once('.').unwrap();
            format!("{head}.{claims}.{}", rest.split_once('.').unwrap().1)
        }),
        ("expired", expired),
        ("for another audience", for_others),
    ];
    for (name, token) in cases {
        assert_eq!(headwater.client_with(&token).await.err(), Some(401), "case: {name}");
        for prefix in ["Bearer.", "BEARER."] {
            let offered = ["headwater.v1", &format!("{prefix}{token}")];
            let rejected = Client::try_connect(headwater.address, "/live", &offered).await.err();
            assert_eq!(rejected, Some(401), "case: {name} as {prefix}");
        }
        let path = format!("/live?token={token}");
        let rejected = Client::try_connect(headwater.address, &path, &[]).await.err();
        assert_eq!(rejected, Some(401), "case: {name} in the query");
        for scheme in ["Bearer", "bearer", "Basic", "Token"] {
            let rest = headwater.rest().with("authorization", &format!("{scheme} {token}"));
            let status = rest.get("/api/v1/status").await.status;
            assert!(matches!(status, 401 | 403), "case: {name} as {scheme}: {status}");
        }
    }
    let empty = Client::try_connect(headwater.address, "/live?token=", &[]).await.err();
    assert_eq!(empty, Some(401));
    let rest = headwater.rest().with("authorization", &format!("bearer {good}"));
    assert_eq!(rest.get("/api/v1/status").await.status, 200);
}

#[tokio::test]
async fn without_tokens_every_topic_is_public_and_nobody_is_admin() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&TOPICS).await;
    assert_eq!(headwater.rest().get("/api/v1/policy").await.status, 403);
    let put = headwater.put_policies("x", "permit (principal, action, resource);", None).await;
    assert_eq!(put.status, 403, "{put:?}");
}

#[tokio::test]
async fn pages_of_other_origins_cannot_connect() {
    let headwater = Headwater::start().await;
    let own = format!("http://{}", headwater.address);
    let cases = [(own.as_str(), None), ("https://evil.example", Some(403)), ("null", Some(403))];
    for (origin, expected) in cases {
        let rejected = Client::from_page(headwater.address, origin).await.err();
        assert_eq!(rejected, expected, "case: {origin}");
    }
    let setup = Headwater::setup().option("--allowed-origins", "https://good.example");
    let headwater = setup.start().await;
    assert!(Client::from_page(headwater.address, "https://good.example").await.is_ok());
    let rejected = Client::from_page(headwater.address, "https://evil.example").await.err();
    assert_eq!(rejected, Some(403));
}

#[tokio::test]
async fn responses_carry_security_headers_for_browsers() {
    let headwater = Headwater::start().await;
    for path in ["/api/v1/status", "/api/v1/nothing", "/api/v1/history/x"] {
        let answer = headwater.rest().get(path).await;
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "case: {path}");
        assert_eq!(answer.header("x-frame-options"), "DENY", "case: {path}");
        assert_eq!(answer.header("cache-control"), "no-store", "case: {path}");
        assert_eq!(answer.header("referrer-policy"), "no-referrer", "case: {path}");
        let csp = answer.header("content-security-policy");
        assert!(csp.contains("default-src 'none'"), "case: {path}: {csp}");
    }
}
