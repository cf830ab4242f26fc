//! The limits of each class, over WebSocket and REST.

use std::time::{Duration, Instant};

use harness::{ExchangeServer, Headwater, Setup, token, until};
use serde_json::json;

const MATCHES: &str = "coinbase/matches/BTC-USD";

fn limited(exchange: Option<&ExchangeServer>, member: &str) -> (Setup, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let wide = r#"{"topics": 50, "messagesPerSecond": 1000}"#;
    let text = format!(r#"{{"anonymous": {wide}, "member": {member}}}"#);
    std::fs::write(file.path(), text).unwrap();
    let setup = Headwater::setup().with_tokens();
    let setup = exchange.into_iter().fold(setup, Setup::exchange);
    (setup.option("--limits", file.path().to_str().unwrap()), file)
}

#[tokio::test]
async fn the_connections_of_a_principal_are_limited() {
    let member = r#"{"connections": 3, "topics": 5, "messagesPerSecond": 100}"#;
    let (setup, _file) = limited(None, member);
    let headwater = setup.start().await;
    let ann = token(&["--subject", "ann"]).await;
    let bo = token(&["--subject", "bo"]).await;
    let attempts = (0..40).map(|_| headwater.client_with(&ann));
    let mut open = Vec::new();
    let mut rejected = Vec::new();
    for attempt in futures_util::future::join_all(attempts).await {
        match attempt {
            Ok(client) => open.push(client),
            Err(status) => rejected.push(status),
        }
    }
    assert_eq!(open.len(), 3);
    assert!(rejected.iter().all(|status| *status == 429), "{rejected:?}");
    // Other principals are not affected.
    let mut other = headwater.client_with(&bo).await.unwrap();
    assert_eq!(other.ask(json!({"action": "ping"})).await["type"], "pong");
    // A closed connection no longer counts.
    open.pop().unwrap().close().await;
    let next =
        until("another connection is accepted", async || headwater.client_with(&ann).await.ok())
            .await;
    assert_eq!(headwater.client_with(&ann).await.err(), Some(429));
    drop(next);
}

#[tokio::test]
async fn connections_of_a_killed_server_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let member = r#"{"connections": 2, "topics": 5, "messagesPerSecond": 100}"#;
    let (setup, _file) = limited(None, member);
    let setup = setup.folder(folder.path());
    let ann = token(&["--subject", "ann"]).await;
    let headwater = setup.spawn().await;
    let one = headwater.client_with(&ann).await.unwrap();
    let two = headwater.client_with(&ann).await.unwrap();
    assert_eq!(headwater.client_with(&ann).await.err(), Some(429));
    headwater.kill().await;
    drop((one, two));
    let headwater = setup.spawn().await;
    let _one = headwater.client_with(&ann).await.unwrap();
    let _two = headwater.client_with(&ann).await.unwrap();
    assert_eq!(headwater.client_with(&ann).await.err(), Some(429));
    headwater.stop().await;
}

#[tokio::test]
async fn requests_and_messages_have_separate_rate_limits() {
    let member = r#"{"topics": 2, "messagesPerSecond": 4, "requestsPerSecond": 4}"#;
    let (setup, _file) = limited(None, member);
    let headwater = setup.start().await;
    let ann = token(&["--subject", "ann"]).await;
    let bo = token(&["--subject", "bo"]).await;
    let rest = |token: &str| headwater.rest().with("authorization", &format!("Bearer {token}"));
    let start = Instant::now();
    let asked = (0..30).map(|_| async { rest(&ann).get("/api/v1/openapi.json").await });
    let answers = futures_util::future::join_all(asked).await;
    let done = answers.iter().filter(|answer| answer.status == 200).count();
    let most = burst_of_eight(start.elapsed());
    assert!((8..=most).contains(&done), "{done} of 30 requests, at most {most} are allowed");
    let rejected = answers.iter().find(|answer| answer.status == 429).unwrap();
    assert_eq!(rejected.header("retry-after"), "1");
    rejected.problem(429);
    assert_eq!(
        rest(&bo).get("/api/v1/openapi.json").await.status,
        200,
        "other principals are not limited"
    );

    let mut client = headwater.client_with(&ann).await.unwrap();
    let start = Instant::now();
    assert_eq!(client.hello().await["limits"]["messagesPerSecond"], 4);
    for _ in 0..20 {
        client.send(&json!({"action": "ping"})).await;
    }
    let mut pongs = 0;
    for _ in 0..20 {
        let answer = client.expect_one_of(&["pong", "error"]).await;
        if answer["type"] == "pong" {
            pongs += 1;
        } else {
            assert_eq!(answer["code"], "rate_limited", "{answer}");
        }
    }
    // The hello counts as well.
    let most = burst_of_eight(start.elapsed());
    assert!((7..=most).contains(&pongs), "{pongs} of 20 pings, at most {most} are allowed");
    let mut other = headwater.client_with(&bo).await.unwrap();
    assert_eq!(
        other.ask(json!({"action": "ping"})).await["type"],
        "pong",
        "other principals are not limited"
    );
}

/// Returns the most requests that are allowed within a time: a burst of eight, and four per second.
fn burst_of_eight(elapsed: Duration) -> usize {
    8 + usize::try_from(elapsed.as_millis() * 4 / 1_000).unwrap() + 1
}

#[tokio::test]
async fn topics_count_whether_subscribed_over_rest_or_websocket() {
    let member = r#"{"topics": 2, "messagesPerSecond": 100}"#;
    let (setup, _file) = limited(None, member);
    let headwater = setup.start().await;
    let mut client = headwater.client_with(&token(&[]).await).await.unwrap();
    let own = headwater.rest().of(&client.hello().await);
    client.subscribe(&["mastodon/lang/en"]).await;
    assert_eq!(own.post("/api/v1/subscriptions/mastodon/lang/de").await.status, 201);
    own.post("/api/v1/subscriptions/mastodon/lang/fr").await.problem(409);
    let request = json!({"action": "subscribe", "topics": ["mastodon/lang/fr"]});
    assert_eq!(client.ask(request).await["code"], "too_many_topics");
}

#[tokio::test]
async fn the_class_limits_the_depth_of_the_history() {
    let exchange = ExchangeServer::start().await.unwrap();
    let member = r#"{"topics": 5, "messagesPerSecond": 100, "history": 4}"#;
    let (setup, _file) = limited(Some(&exchange), member);
    let headwater = setup.option("--coinbase-record", "matches/BTC-USD").start().await;
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..10 {
        exchange.trade("BTC-USD");
    }
    let token = token(&["--subject", "ann"]).await;
    let rest = headwater.rest().with("authorization", &format!("Bearer {token}"));
    let numbers = async |query: &str| -> Vec<u64> {
        let page = rest.history(&format!("{MATCHES}{query}")).await;
        page["events"].as_array().unwrap().iter().map(|it| it["seq"].as_u64().unwrap()).collect()
    };
    until("all trades are in the log", async || {
        (numbers("").await.last() == Some(&10)).then_some(())
    })
    .await;
    for query in ["", "?after=0", "?after=2&limit=1000", "?before=11&limit=9"] {
        assert_eq!(numbers(query).await, [7, 8, 9, 10], "case: {query:?}");
    }
    assert_eq!(numbers("?after=0&before=5").await, [0_u64; 0]);

    let mut client = headwater.client_with(&token).await.unwrap();
    client.subscribe_with(&[MATCHES], json!({"last": 9})).await;
    let seqs: Vec<u64> = client.events(MATCHES, 4).await.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [7, 8, 9, 10]);
    let mut client = headwater.client_with(&token).await.unwrap();
    let answer = client.subscribe_with(&[MATCHES], json!({"since": {MATCHES: 2}})).await;
    assert_eq!(answer["topics"][0]["recovered"], false, "{answer}");
    assert_eq!(client.events(MATCHES, 4).await[0].seq, 7);
    assert_eq!((client.gaps[0].range.clone(), client.gaps[0].reason.as_str()), (3..=6, "expired"));
    let mut client = headwater.client_with(&token).await.unwrap();
    client.send(&json!({"action": "replay", "topic": MATCHES, "from": 1, "to": 8})).await;
    let seqs: Vec<u64> = client.events(MATCHES, 2).await.iter().map(|event| event.seq).collect();
    assert_eq!(seqs, [7, 8]);
}

#[tokio::test]
async fn the_class_limits_the_bytes_of_history() {
    let exchange = ExchangeServer::start().await.unwrap();
    // The burst is 16 seconds' worth, about 60 trades.
    let member = r#"{"topics": 5, "messagesPerSecond": 100, "historyBytesPerSecond": 1024}"#;
    let (setup, _file) = limited(Some(&exchange), member);
    let headwater = setup.option("--coinbase-record", "matches/BTC-USD").start().await;
    exchange.subscribed("matches", "BTC-USD").await;
    let (ann, bo) = (token(&["--subject", "ann"]).await, token(&["--subject", "bo"]).await);
    let mut other = headwater.client_with(&bo).await.unwrap();
    other.subscribe(&[MATCHES]).await;
    for _ in 0..200 {
        exchange.trade("BTC-USD");
    }
    other.events(MATCHES, 200).await;

    let mut client = headwater.client_with(&ann).await.unwrap();
    client.replay(MATCHES, 1..=200).await;
    let rejected = [
        json!({"action": "replay", "topic": MATCHES, "from": 1, "to": 1}),
        json!({"action": "subscribe", "topics": [MATCHES], "last": 1}),
        json!({"action": "subscribe", "topics": [MATCHES], "since": {MATCHES: 1}}),
    ];
    for request in rejected {
        let answer = client.ask(request).await;
        assert_eq!(answer["code"], "rate_limited", "{answer}");
        assert!(answer["message"].as_str().unwrap().contains("wait"), "{answer}");
    }
    let rest = headwater.rest().with("authorization", &format!("Bearer {ann}"));
    let page = rest.get(&format!("/api/v1/history/{MATCHES}")).await;
    let wait = page.header("retry-after").parse::<u64>().unwrap();
    assert!((1..=60).contains(&wait), "{wait} s");
    page.problem(429);

    // What `push` sends after a subscription over REST counts for the client, on all of its connections.
    let cy = token(&["--subject", "cy"]).await;
    let mut client = headwater.client_with(&cy).await.unwrap();
    let rest = headwater.rest().with("authorization", &format!("Bearer {cy}"));
    let path = format!("/api/v1/subscriptions/{MATCHES}?since=1");
    assert_eq!(rest.of(&client.hello().await).post(&path).await.status, 201);
    let mut another = headwater.client_with(&cy).await.unwrap();
    let one = json!({"action": "replay", "topic": MATCHES, "from": 1, "to": 1});
    assert_eq!(another.ask(one).await["code"], "rate_limited");
    client.events(MATCHES, 199).await;

    // New events are no history, and other principals are not affected.
    let mut client = headwater.client_with(&ann).await.unwrap();
    client.subscribe(&[MATCHES]).await;
    exchange.trade("BTC-USD");
    assert_eq!(client.event(MATCHES).await.seq, 201);
    assert_eq!(other.replay(MATCHES, 1..=20).await.len(), 20);
}
