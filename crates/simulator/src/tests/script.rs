//! Tests of the upstreams that a test controls.

use axum::{
    http::{StatusCode, request::Parts},
    response::IntoResponse as _,
};
use serde_json::json;
use tokio_tungstenite::tungstenite::Error;

use super::*;
use crate::script::{ExchangePeer, ScriptedServer};

const SUBSCRIBE: &str = r#"{"type":"subscribe","product_ids":["BTC-USD"],"channels":["matches"]}"#;

async fn subscriber(server: &ExchangeServer) -> Socket {
    let mut socket = connect(&server.url()).await;
    send(&mut socket, SUBSCRIBE).await;
    assert_eq!(receive_json(&mut socket).await["type"], "subscriptions");
    socket
}

#[tokio::test]
async fn a_scripted_exchange_sends_only_requested_messages() {
    let server = ExchangeServer::start().await.unwrap();
    assert!(!server.is_subscribed("matches", "BTC-USD"));
    let mut socket = subscriber(&server).await;
    assert!(server.is_subscribed("matches", "BTC-USD"));
    let before = server.newest_trade("BTC-USD");
    let first = server.trade("BTC-USD");
    assert_eq!(first, before + 1);
    assert_eq!(server.trade_unstreamed("BTC-USD"), first + 1);
    server.trade("ETH-USD");
    server.send("not JSON");
    server.trade_as("BTC-USD", |id| format!(r#"{{"own":{id}}}"#));
    assert_eq!(receive_json(&mut socket).await["trade_id"], first);
    assert_eq!(receive(&mut socket).await, Message::text("not JSON"));
    assert_eq!(receive_json(&mut socket).await["own"], first + 2);
    let (_, trades) = get(format!("{}/products/BTC-USD/trades", server.rest_url())).await;
    assert_eq!(trades.as_array().unwrap().len(), 3, "REST lists the trade that was not streamed");
    assert_eq!(server.requests(), [serde_json::from_str::<Value>(SUBSCRIBE).unwrap()]);
}

#[tokio::test]
async fn dropped_connections_receive_no_later_messages() {
    let server = ExchangeServer::start().await.unwrap();
    let mut old = subscriber(&server).await;
    server.drop_connections();
    server.trade("BTC-USD");
    assert!(!server.is_subscribed("matches", "BTC-USD"), "the subscription is forgotten at once");
    assert_eq!(ended(&mut old).await, None, "no close frame");
    let mut new = subscriber(&server).await;
    assert_eq!(receive_json(&mut new).await["type"], "last_match");
    server.silence_connections();
    server.trade("BTC-USD");
    let mut other = subscriber(&server).await;
    let last = receive_json(&mut other).await;
    assert_eq!(last["trade_id"], server.newest_trade("BTC-USD"));
    let silence = time::timeout(Duration::from_millis(100), new.next()).await;
    assert!(silence.is_err(), "{silence:?}");
    server.reject_handshakes(Some(StatusCode::FORBIDDEN));
    let rejected = connect_async(server.url()).await.unwrap_err();
    assert!(matches!(rejected, Error::Http(response) if response.status() == 403));
    assert_eq!(server.accepted(), 3);
}

#[tokio::test]
async fn a_book_is_sent_only_if_it_is_set() {
    let server = ExchangeServer::start().await.unwrap();
    server.set_book("BTC-USD", r#"{"type":"snapshot","set":true}"#);
    let mut socket = connect(&server.url()).await;
    for (product, has_book) in [("ETH-USD", false), ("BTC-USD", true)] {
        let request =
            json!({"type": "subscribe", "product_ids": [product], "channels": ["level2_batch"]});
        send(&mut socket, &request.to_string()).await;
        assert_eq!(receive_json(&mut socket).await["type"], "subscriptions");
        if has_book {
            assert_eq!(receive_json(&mut socket).await["set"], true);
        }
        assert!(server.is_subscribed("level2_batch", product));
    }
}

#[tokio::test]
async fn a_scripted_mastodon_server_streams_and_lists_its_posts() {
    let server = MastodonServer::start().await.unwrap();
    let base = server.url();
    let (_, token) = server
        .token()
        .split_once('=')
        .map(|(host, token)| (host.to_owned(), token.to_owned()))
        .unwrap();
    let url = format!(
        "{}/api/v1/streaming?access_token={token}&stream=public",
        base.replace("http", "ws")
    );
    let mut socket = connect(&url).await;
    server.streamed().await;
    let status = server.status(&json!({"content": "<p>One</p>"}));
    server.post(&status);
    let edited = {
        let mut edited = status.clone();
        edited["content"] = json!("<p>Two</p>");
        edited["edited_at"] = json!(MastodonServer::later(&status));
        edited
    };
    server.edit(&edited);
    let (_, page) = get(format!("{base}/api/v1/timelines/public")).await;
    assert_eq!(page, json!([edited]));
    server.delete(&status);
    for event in ["update", "status.update", "delete"] {
        assert_eq!(receive_json(&mut socket).await["event"], event);
    }
    let (_, page) = get(format!("{base}/api/v1/timelines/public")).await;
    assert_eq!(page, json!([]));
    server.require_token();
    assert_eq!(get(format!("{base}/api/v1/timelines/public")).await.0, 422);
}

#[tokio::test]
async fn a_test_controls_every_handshake_and_response() {
    let respond = |request: &Parts| match request.uri.path() {
        "/known" => "[1]".into_response(),
        _ => StatusCode::NOT_FOUND.into_response(),
    };
    let server = ScriptedServer::start(respond).await.unwrap();
    let base = format!("http://{}", server.address());
    assert_eq!(get(format!("{base}/known?page=2")).await, (200, json!([1])));
    assert_eq!(get(format!("{base}/other")).await.0, 404);
    assert_eq!(server.requests(), ["/known?page=2", "/other"]);

    let url = format!("ws://{}/feed", server.address());
    let (rejected, ()) = tokio::join!(connect_async(&url), async {
        server.handshake().await.reject(429, &[("retry-after", "7")]);
    });
    let Err(Error::Http(response)) = rejected else { panic!("{rejected:?}") };
    assert_eq!(
        (response.status().as_u16(), &response.headers()["retry-after"]),
        (429, &"7".parse().unwrap())
    );

    let (mut client, mut peer) = tokio::join!(connect(&url), async {
        let handshake = server.handshake().await;
        assert_eq!(handshake.target, "/feed");
        ExchangePeer::new(handshake.accept().await)
    });
    send(&mut client, SUBSCRIBE).await;
    assert_eq!(peer.agree().await, "subscribe BTC-USD matches");
    assert_eq!(receive_json(&mut client).await["channels"][0]["name"], "matches");
    drop(client);
    assert_eq!(peer.message().await, None);
}
