//! The REST interface.

use harness::{ExchangeServer, Headwater, MastodonServer, until};
use reqwest::Method;
use serde_json::json;

const PAIR: &str = "/api/v1/subscribe/BTC-USD";

#[tokio::test]
async fn a_pair_is_subscribed_and_unsubscribed_on_the_named_connection() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    let mut other = headwater.client().await;
    let welcome = client.hello().await;
    let rest = headwater.rest().of(&welcome);
    let topic = "coinbase/ticker/BTC-USD";

    let started = rest.post(PAIR).await;
    assert_eq!(started.status, 201, "{started:?}");
    let (id, log) = (&welcome["connectionId"], &welcome["log"]);
    assert!(log.is_string(), "{welcome}");
    let expected = json!({"topic": topic, "connectionId": id, "log": log, "seq": 0});
    assert_eq!(started.json(), expected);
    let again = rest.post(PAIR).await;
    assert_eq!((again.status, again.json()), (200, expected));
    exchange.subscribed("ticker", "BTC-USD").await;
    exchange.send(r#"{"type":"ticker","product_id":"BTC-USD","price":"1"}"#);
    assert_eq!(client.event(topic).await.seq, 1);
    let listed = rest.get("/api/v1/subscribe").await;
    let expected = json!({"connectionId": welcome["connectionId"], "topics": [topic]});
    assert_eq!((listed.status, listed.json()), (200, expected));
    assert_eq!(client.ask(json!({"action": "list"})).await["topics"], json!([topic]));
    assert_eq!(other.ask(json!({"action": "list"})).await["topics"], json!([]));

    let stopped = rest.delete(PAIR).await;
    assert_eq!((stopped.status, stopped.text.as_str()), (204, ""));
    rest.delete(PAIR).await.problem(404);
    assert_eq!(rest.get("/api/v1/subscribe").await.json()["topics"], json!([]));
    assert_eq!(client.ask(json!({"action": "list"})).await["topics"], json!([]));
}

#[tokio::test]
async fn all_channels_and_topics_can_be_subscribed() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    let rest = headwater.rest().of(&client.hello().await);
    let started = rest.post("/api/v1/subscribe/ETH-USD?channel=matches").await;
    assert_eq!(started.json()["topic"], "coinbase/matches/ETH-USD");
    exchange.subscribed("matches", "ETH-USD").await;
    let id = exchange.trade("ETH-USD");
    assert_eq!(client.event("coinbase/matches/ETH-USD").await.trade_id(), id);
    let topic = "/api/v1/subscriptions/mastodon/tag/R%C3%BCst";
    let started = rest.post(topic).await;
    assert_eq!((started.status, &started.json()["topic"]), (201, &json!("mastodon/tag/r%C3%BCst")));
    assert_eq!(rest.post(topic).await.status, 200);
    assert_eq!(rest.delete(topic).await.status, 204);
    rest.delete(topic).await.problem(404);
    let left = rest.delete("/api/v1/subscribe/ETH-USD?channel=matches").await;
    assert_eq!(left.status, 204);
}

#[tokio::test]
async fn invalid_requests_get_problems() {
    let exchange = ExchangeServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).start().await;
    let mut client = headwater.client().await;
    let welcome = client.hello().await;
    let rest = headwater.rest().of(&welcome);
    let stranger = headwater.rest();
    let unknown = rest.post("/api/v1/subscribe/BTC-USX").await.problem(404);
    assert!(unknown["nearest"].as_array().unwrap().contains(&json!("BTC-USD")), "{unknown}");
    let nearest = rest.get("/api/v1/history/coinbase/ticker/ETH-USX").await.problem(404);
    assert_eq!(nearest["nearest"][0], "ETH-USD", "the best suggestion is first: {nearest}");
    for path in [
        "/api/v1/subscribe/btc-usd",
        "/api/v1/subscribe/BTCUSD",
        "/api/v1/subscribe/BTC-USD-X",
        "/api/v1/subscribe/BTC-USD?channel=full",
        "/api/v1/subscribe/%20",
        "/api/v1/subscriptions/mastodon/lang/english",
    ] {
        rest.post(path).await.problem(422);
        rest.delete(path).await.problem(422);
    }
    rest.post("/api/v1/subscriptions/twitter/public").await.problem(404);
    stranger.post(PAIR).await.problem(401);
    stranger.delete(PAIR).await.problem(401);
    stranger.get("/api/v1/subscribe").await.problem(401);
    let id = welcome["connectionId"].as_str().unwrap();
    let token = welcome["connectionToken"].as_str().unwrap();
    stranger.with("x-connection-id", id).post(PAIR).await.problem(401);
    stranger.with("x-connection-token", token).post(PAIR).await.problem(401);
    let mut other = headwater.client().await;
    let others = other.hello().await;
    let others_id = others["connectionId"].as_str().unwrap();
    for forged in [
        rest.with("x-connection-token", "forged"),
        rest.with("x-connection-token", ""),
        rest.with("x-connection-id", others_id),
    ] {
        forged.post(PAIR).await.problem(403);
        forged.delete(PAIR).await.problem(403);
        forged.get("/api/v1/subscribe").await.problem(403);
    }
    assert_eq!(other.ask(json!({"action": "list"})).await["topics"], json!([]));
}

#[tokio::test]
async fn a_closed_connection_returns_410() {
    let headwater = Headwater::start().await;
    let mut client = headwater.client().await;
    let rest = headwater.rest().of(&client.hello().await);
    assert_eq!(rest.post(PAIR).await.status, 201);
    client.close().await;
    until("the connection is closed", async || {
        (rest.get("/api/v1/subscribe").await.status == 410).then_some(())
    })
    .await;
    rest.post(PAIR).await.problem(410);
    rest.delete(PAIR).await.problem(410);
    rest.get("/api/v1/subscribe").await.problem(410);
}

#[tokio::test]
async fn topics_above_the_limit_of_a_connection_get_409() {
    let headwater = Headwater::setup().option("--topics-per-connection", "1").start().await;
    let mut client = headwater.client().await;
    let rest = headwater.rest().of(&client.hello().await);
    assert_eq!(rest.post(PAIR).await.status, 201);
    rest.post("/api/v1/subscribe/ETH-USD").await.problem(409);
    assert_eq!(rest.post(PAIR).await.status, 200, "it is already subscribed");
}

#[tokio::test]
async fn the_catalog_lists_topics_and_whether_they_are_live() {
    let exchange = ExchangeServer::start().await.unwrap();
    let server = MastodonServer::start().await.unwrap();
    let setup = Headwater::setup().exchange(&exchange).servers(&[&server]);
    let headwater = setup.start().await;
    let mut client = headwater.client().await;
    client.subscribe(&["coinbase/ticker/ETH-USD", "mastodon/tag/rust"]).await;
    exchange.subscribed("ticker", "ETH-USD").await;
    server.streamed().await;
    let rest = headwater.rest();
    let live = |topics: &serde_json::Value, topic: &str| {
        let topics = topics["topics"].as_array().unwrap();
        topics.iter().find(|it| it["topic"] == topic).map(|it| it["live"].as_bool().unwrap())
    };
    let host = format!("mastodon/server/{}", server.host());
    let all = until("the subscribed topics are live in the catalog", async || {
        let all = rest.get("/api/v1/topics").await.json();
        (live(&all, "mastodon/tag/rust") == Some(true) && live(&all, &host).is_some())
            .then_some(all)
    })
    .await;
    assert_eq!(live(&all, "coinbase/ticker/ETH-USD"), Some(true));
    assert_eq!(live(&all, "coinbase/level2/ETH-USD"), Some(false));
    assert_eq!(live(&all, "mastodon/public"), Some(false));
    assert_eq!(live(&all, "system/sources"), Some(true));
    assert_eq!(all["more"], false);
    let found = rest.get("/api/v1/topics?q=sol-&source=coinbase").await.json();
    let names: Vec<_> = found["topics"].as_array().unwrap().iter().map(|it| &it["topic"]).collect();
    let expected =
        ["coinbase/level2/SOL-USD", "coinbase/matches/SOL-USD", "coinbase/ticker/SOL-USD"];
    assert_eq!(names, expected);
    let found = rest.get("/api/v1/topics?q=sol&source=mastodon").await.json();
    assert_eq!(found["topics"], json!([]));
}

#[tokio::test]
async fn the_status_reports_sources_topics_and_connections() {
    let exchange = ExchangeServer::start().await.unwrap();
    let server = MastodonServer::start().await.unwrap();
    let headwater = Headwater::setup().exchange(&exchange).servers(&[&server]).start().await;
    let mut client = headwater.client().await;
    client.subscribe(&["coinbase/matches/BTC-USD", "mastodon/public"]).await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.trade("BTC-USD");
    client.events("coinbase/matches/BTC-USD", 1).await;
    let status = until("all sources are live", async || {
        let status = headwater.rest().get("/api/v1/status").await.json();
        let sources = status["sources"].as_array().unwrap();
        let is_live = sources.len() == 2 && sources.iter().all(|it| it["state"] == "live");
        is_live.then_some(status)
    })
    .await;
    assert_eq!(status["data"], "live");
    assert_eq!(status["connections"], 1);
    assert!(status["topics"].as_u64().unwrap() >= 2, "{status}");
    assert!(status["version"].as_str().unwrap().starts_with(char::is_numeric), "{status}");
    let source = |name: &str| {
        let sources = status["sources"].as_array().unwrap();
        sources.iter().find(|it| it["source"] == name).unwrap().clone()
    };
    assert!(source("coinbase")["lagMs"].as_u64().unwrap() < 60_000, "{status}");
    assert!(source(&server.host())["since"].is_string(), "{status}");
}

#[tokio::test]
async fn the_openapi_description_lists_every_path() {
    let headwater = Headwater::start().await;
    let answer = headwater.rest().get("/api/v1/openapi.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
    let api = answer.json();
    assert!(api["openapi"].as_str().unwrap().starts_with("3."), "{}", api["openapi"]);
    let paths: Vec<(&str, Vec<&str>)> = vec![
        ("/api/v1/subscribe", vec!["get"]),
        ("/api/v1/subscribe/{pair}", vec!["delete", "post"]),
        ("/api/v1/subscriptions/{topic}", vec!["delete", "post"]),
        ("/api/v1/history/{topic}", vec!["get"]),
        ("/api/v1/topics", vec!["get"]),
        ("/api/v1/status", vec!["get"]),
        ("/api/v1/config", vec!["get"]),
        ("/api/v1/policy", vec!["get", "put"]),
        ("/healthz", vec!["get"]),
    ];
    assert_eq!(api["paths"].as_object().unwrap().len(), paths.len());
    for (path, methods) in paths {
        let item = api["paths"][path].as_object().unwrap_or_else(|| panic!("{path} is missing"));
        let mut found: Vec<&str> = item.keys().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, methods, "{path}");
    }
    // Every reference has a target.
    let text = answer.text.as_str();
    for reference in text.split("\"#/").skip(1).filter_map(|rest| rest.split('"').next()) {
        assert!(api.pointer(&format!("/{reference}")).is_some(), "{reference} has no target");
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_get_problems() {
    let headwater = Headwater::start().await;
    let rest = headwater.rest();
    for path in ["/api/v1/nothing", "/api", "/api/v2/status", "/api/v1/history/x/y"] {
        rest.get(path).await.problem(404);
    }
    for (method, path, allowed) in [
        (Method::POST, "/api/v1/status", "GET,HEAD"),
        (Method::DELETE, "/api/v1/history/mastodon/public", "GET,HEAD"),
        (Method::PUT, PAIR, "POST,DELETE"),
        (Method::GET, PAIR, "POST,DELETE"),
    ] {
        let answer = rest.ask(method.clone(), path).await;
        answer.problem(405);
        let mut named: Vec<&str> = answer.header("allow").split(',').collect();
        let mut allowed: Vec<&str> = allowed.split(',').collect();
        named.sort_unstable();
        allowed.sort_unstable();
        assert_eq!(named, allowed, "{method} {path}");
    }
    let health = rest.get("/healthz").await;
    assert_eq!((health.status, health.text.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn an_invalid_bearer_token_is_rejected() {
    let headwater = Headwater::start().await;
    let rest = headwater.rest().with("authorization", "Bearer nonsense");
    let answer = rest.get("/api/v1/status").await;
    assert!([401, 403].contains(&answer.status), "{answer:?}");
}
