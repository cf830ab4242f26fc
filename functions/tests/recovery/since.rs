//! `subscribe` with `since`, in a log of every shape.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, to_bytes},
    http::Request,
};
use domain::{
    clock::Clock,
    connection::{Recipient, Subscription},
};
use functions::rest;
use jiff::{Timestamp, ToSpan as _};
use lambda_http::tower::ServiceExt as _;
use serde_json::{Value, json};
use tokio::time;

use crate::world::{World, summary, topic};

/// The history that a class can read: all of it, and four events.
const NO_LIMIT: Option<u64> = None;
const LIMIT: Option<u64> = Some(4);

/// Which log a request names.
#[derive(Clone, Copy, Debug)]
enum Named {
    None,
    Ours,
    Other,
}

#[derive(Clone, Copy, Debug)]
enum Log {
    Empty,
    /// Events 1 to 9, in frames of three.
    Whole,
    /// Like `Whole`, and 4 to 6 were dropped.
    WithLost,
    /// Like `Whole`, and 1 to 3 have expired.
    Expired,
    /// Like `Whole`, and 4 to 6 are not there.
    WithHole,
    /// Numbers 1 to 9 were given, and all events have expired and are deleted.
    Deleted,
    /// Like `Deleted`, and 1 to 6 are not deleted yet. Expired events are deleted in any order.
    PartlyDeleted,
}

async fn world(log: Log, history: Option<u64>) -> World {
    let world = World::with_history(history).await;
    let topic = topic();
    if let Log::Deleted | Log::PartlyDeleted = log {
        world.tables.control.reserve(&topic, 9).await.unwrap();
    }
    for first in [1, 4, 7] {
        match (log, first) {
            (Log::Empty | Log::Deleted, _) | (Log::WithHole, 4) | (Log::PartlyDeleted, 7) => {}
            (Log::WithLost, 4) => world.append_lost(&topic, 4, 6).await,
            (Log::Expired, 1) | (Log::PartlyDeleted, _) => {
                let at = Timestamp::now() - 2.hours();
                world.append_at(&topic, first, first + 2, at).await;
            }
            _ => world.append(&topic, first, first + 2).await,
        }
    }
    world
}

/// Returns the request of a subscription after `since`.
async fn request(world: &World, since: u64, named: Named) -> Value {
    let topic = topic();
    let mut request = json!({"topics": [topic], "since": {topic.as_str(): since}});
    match named {
        Named::None => {}
        Named::Ours => request["log"] = json!(world.log_id().await),
        Named::Other => request["log"] = json!("another"),
    }
    request
}

/// The number up to which `push` takes the connection for served.
async fn cursor(world: &World, connection: &Recipient) -> u64 {
    let item = world.tables.connections.get(0, &connection.id).await.unwrap().unwrap();
    match item.topics[&topic()] {
        Subscription::Live { cursor, .. } => cursor,
        Subscription::Joining { .. } => panic!("the subscription is live"),
    }
}

#[tokio::test]
async fn recovered_is_true_only_if_all_later_events_follow() {
    let cases = [
        (Log::Whole, NO_LIMIT, 4, Named::None, "at 9 recovered true; events 5-9"),
        (Log::Whole, NO_LIMIT, 4, Named::Ours, "at 9 recovered true; events 5-9"),
        (Log::Whole, NO_LIMIT, 0, Named::Ours, "at 9 recovered true; events 1-9"),
        (Log::Whole, NO_LIMIT, 9, Named::Ours, "at 9 recovered true"),
        (Log::Empty, NO_LIMIT, 0, Named::Ours, "at 0 recovered true"),
        // Another log, behind and ahead of it.
        (Log::Whole, NO_LIMIT, 4, Named::Other, "at 9 recovered false; gap 5-9 reset"),
        (Log::Whole, NO_LIMIT, 0, Named::Other, "at 9 recovered false; gap 1-9 reset"),
        (Log::Whole, NO_LIMIT, 9, Named::Other, "at 9 recovered false; gap 1-9 reset"),
        (Log::Whole, NO_LIMIT, 50, Named::Other, "at 9 recovered false; gap 1-9 reset"),
        (Log::Empty, NO_LIMIT, 50, Named::Other, "at 0 recovered false; gap 0-0 reset"),
        (Log::Empty, NO_LIMIT, 0, Named::Other, "at 0 recovered false; gap 0-0 reset"),
        // A number that the log has not reached.
        (Log::Whole, NO_LIMIT, 10, Named::None, "at 9 recovered false; gap 1-9 reset"),
        (Log::Whole, NO_LIMIT, 50, Named::Ours, "at 9 recovered false; gap 1-9 reset"),
        (Log::Empty, NO_LIMIT, 1, Named::None, "at 0 recovered false; gap 0-0 reset"),
        // Events that were dropped.
        (
            Log::WithLost,
            NO_LIMIT,
            2,
            Named::Ours,
            "at 9 recovered false; events 3-3; gap 4-6 lost; events 7-9",
        ),
        (Log::WithLost, NO_LIMIT, 5, Named::Ours, "at 9 recovered false; gap 6-6 lost; events 7-9"),
        (Log::WithLost, NO_LIMIT, 6, Named::Ours, "at 9 recovered true; events 7-9"),
        // Events that have expired.
        (
            Log::Expired,
            NO_LIMIT,
            1,
            Named::Ours,
            "at 9 recovered false; gap 2-3 expired; events 4-9",
        ),
        (Log::Expired, NO_LIMIT, 3, Named::Ours, "at 9 recovered true; events 4-9"),
        // All events have expired.
        (Log::Deleted, NO_LIMIT, 9, Named::Ours, "at 9 recovered true"),
        (Log::Deleted, NO_LIMIT, 8, Named::Ours, "at 8 recovered false"),
        (Log::Deleted, NO_LIMIT, 0, Named::None, "at 0 recovered false"),
        (Log::Deleted, NO_LIMIT, 10, Named::Ours, "at 9 recovered false; gap 1-9 reset"),
        (Log::PartlyDeleted, NO_LIMIT, 9, Named::Ours, "at 9 recovered true"),
        (Log::PartlyDeleted, NO_LIMIT, 8, Named::Ours, "at 8 recovered false"),
        (Log::PartlyDeleted, NO_LIMIT, 6, Named::Ours, "at 6 recovered false"),
        (Log::PartlyDeleted, NO_LIMIT, 2, Named::Ours, "at 6 recovered false; gap 3-6 expired"),
        (Log::PartlyDeleted, NO_LIMIT, 10, Named::Ours, "at 9 recovered false; gap 1-9 reset"),
        // Events that were never written.
        (
            Log::WithHole,
            NO_LIMIT,
            2,
            Named::Ours,
            "at 9 recovered false; events 3-3; gap 4-6 expired; events 7-9",
        ),
        (Log::WithHole, NO_LIMIT, 6, Named::Ours, "at 9 recovered true; events 7-9"),
        // Events that are too old for the class.
        (Log::Whole, LIMIT, 2, Named::Ours, "at 9 recovered false; gap 3-5 expired; events 6-9"),
        (Log::Whole, LIMIT, 5, Named::Ours, "at 9 recovered true; events 6-9"),
    ];
    for (log, history, since, named, expected) in cases {
        let case = format!("since {since} of log {named:?} in {log:?} with history {history:?}");
        let world = world(log, history).await;
        let client = world.connect("a").await;
        let mut subscribe = request(&world, since, named).await;
        subscribe["action"] = json!("subscribe");
        let sent = world.send(&client, subscribe).await;
        assert_eq!(sent[0]["log"], world.log_id().await, "case: {case}");
        let lines: Vec<String> = sent.iter().map(summary).collect();
        assert_eq!(lines.join("; "), format!("subscribed {expected}"), "case: {case}");
        let head = sent[0]["topics"][0]["seq"].as_u64().unwrap();
        assert_eq!(cursor(&world, &client).await, head, "case: {case}");
    }
}

#[tokio::test]
async fn a_long_range_is_checked_to_its_end() {
    let world = World::new().await;
    let topic = topic();
    // More than is read at a time.
    let noise: Vec<String> = (0..30_000_u64)
        .map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17).to_string())
        .collect();
    let event = format!("[{}]", noise[..1_000].join(","));
    let frame = |seq| domain::frame::Frame::new(topic.clone(), seq, Timestamp::now(), &[&event]);
    for seq in 1..=300 {
        let entry = domain::entry::Entry::Frame(frame(seq));
        world.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
    }
    world.append_lost(&topic, 301, 301).await;
    let client = world.connect("a").await;
    let mut subscribe = request(&world, 0, Named::Ours).await;
    subscribe["action"] = json!("subscribe");
    let sent = world.send(&client, subscribe).await;
    assert_eq!(summary(&sent[0]), "subscribed at 301 recovered false");
    assert_eq!(summary(sent.last().unwrap()), "gap 301-301 lost");
}

#[tokio::test]
async fn a_subscription_over_rest_says_the_same() {
    let gap = |from, to, reason| json!({"from": from, "to": to, "reason": reason});
    // The last column is the number after which `push` sends the events.
    let cases = [
        (Log::Whole, NO_LIMIT, 4, Named::Ours, true, Value::Null, 4),
        (Log::Whole, NO_LIMIT, 4, Named::None, true, Value::Null, 4),
        (Log::Whole, NO_LIMIT, 4, Named::Other, false, gap(5, 9, "reset"), 9),
        (Log::Whole, NO_LIMIT, 50, Named::None, false, gap(1, 9, "reset"), 9),
        (Log::Empty, NO_LIMIT, 50, Named::None, false, gap(0, 0, "reset"), 0),
        (Log::WithLost, NO_LIMIT, 2, Named::Ours, false, Value::Null, 2),
        (Log::Whole, LIMIT, 2, Named::Ours, false, gap(3, 5, "expired"), 5),
    ];
    for (log, history, since, named, recovered, expected, after) in cases {
        let case = format!("since {since} of log {named:?} in {log:?} with history {history:?}");
        let world = world(log, history).await;
        let client = world.connect("a").await;
        let id = world.log_id().await;
        let name = match named {
            Named::None => String::new(),
            Named::Ours => format!("&log={id}"),
            Named::Other => "&log=another".to_owned(),
        };
        for path in ["subscribe/BTC-USD?channel=matches", "subscriptions/coinbase/matches/BTC-USD?"]
        {
            let url = format!("/api/v1/{path}&since={since}{name}");
            let (status, body) = post(&world, &client, &url).await;
            assert!([200, 201].contains(&status), "case: {case}: {status} {body}");
            assert_eq!(body["log"], id, "case: {case}");
            assert_eq!(body["recovered"], recovered, "case: {case}");
            assert_eq!(body["gap"], expected, "case: {case}");
            assert_eq!(cursor(&world, &client).await, after, "case: {case}");
        }
    }
    let world = world(Log::Whole, NO_LIMIT).await;
    let client = world.connect("a").await;
    let (_, body) = post(&world, &client, "/api/v1/subscribe/BTC-USD?channel=matches").await;
    assert_eq!((&body["recovered"], &body["gap"]), (&Value::Null, &Value::Null));
    for bad in ["since=x", "since=-1", &format!("since=1&log={}", "x".repeat(65))] {
        let (status, _) = post(&world, &client, &format!("/api/v1/subscribe/BTC-USD?{bad}")).await;
        assert_eq!(status, 422, "case: {bad}");
    }
}

#[tokio::test]
async fn the_log_is_named_wherever_numbers_are() {
    let world = world(Log::Whole, NO_LIMIT).await;
    let client = world.connect("a").await;
    let id = world.log_id().await;
    let welcome = world.send(&client, json!({"action": "hello"})).await;
    assert_eq!(welcome[0]["log"], id);
    for path in ["/api/v1/history/coinbase/matches/BTC-USD", "/api/v1/status"] {
        let (status, body) = call(&world, Request::get(path), &client).await;
        assert_eq!((status, &body["log"]), (200, &json!(id)), "case: {path}: {body}");
    }
}

async fn post(world: &World, client: &Recipient, path: &str) -> (u16, Value) {
    call(world, Request::post(path), client).await
}

async fn call(
    world: &World,
    request: axum::http::request::Builder,
    client: &Recipient,
) -> (u16, Value) {
    let token = world.app.connection_tokens.make(&client.id);
    let request = request
        .header("x-connection-id", client.id.as_str())
        .header("x-connection-token", token)
        .body(Body::empty())
        .unwrap();
    let router = rest::router(Arc::clone(&world.app), Clock::new(Timestamp::now));
    let response = router.oneshot(request).await.unwrap();
    let status = response.status().as_u16();
    let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or_default())
}

/// The poller takes over subscriptions that do not say that they go on.
#[tokio::test(start_paused = true)]
async fn a_subscribe_that_takes_long_says_that_it_goes_on() {
    let world = World::new().await;
    let client = world.connect("a").await;
    world.gateway.set_delay(Duration::from_secs(5));
    let item = async || world.tables.connections.get(0, &client.id).await.unwrap().unwrap();
    let subscribing = world.send(&client, json!({"action": "subscribe", "topics": [topic()]}));
    let watching = async {
        time::sleep(Duration::from_secs(1)).await;
        let joined = item().await;
        assert!(matches!(joined.topics[&topic()], Subscription::Joining { .. }), "{joined:?}");
        time::sleep(Duration::from_millis(3_500)).await;
        let joining = item().await;
        assert!(matches!(joining.topics[&topic()], Subscription::Joining { .. }), "{joining:?}");
        assert_eq!(joining.version, joined.version + 2, "after 2 and 4 seconds");
    };
    tokio::join!(subscribing, watching);
    let live = item().await;
    assert!(matches!(live.topics[&topic()], Subscription::Live { .. }), "{live:?}");
}
