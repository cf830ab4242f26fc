//! Tests of the generated Mastodon server.

use serde_json::json;

use super::*;

const STREAMING: &str = "/api/v1/streaming?access_token=simulated-token";

fn websocket(simulator: &Simulator, path: &str) -> String {
    format!("{}{path}", simulator.mastodon_url().replace("http", "ws"))
}

async fn busy() -> Simulator {
    start(|options| options.rate = 2_000.0).await
}

fn payload(envelope: &Value) -> Value {
    serde_json::from_str(envelope["payload"].as_str().unwrap_or_default()).unwrap_or_default()
}

fn events(values: &[Value], name: &str) -> usize {
    values.iter().filter(|value| value["event"] == name).count()
}

#[tokio::test]
async fn the_instance_names_its_own_streaming_address() {
    let simulator = start(|_| {}).await;
    let base = simulator.mastodon_url();
    let (_, instance) = get(format!("{base}/api/v2/instance")).await;
    assert_eq!(instance["configuration"]["urls"]["streaming"], websocket(&simulator, ""));
    assert_eq!(instance["configuration"]["timelines_access"]["live_feeds"]["remote"], "public");
}

#[tokio::test]
async fn the_token_can_be_sent_in_three_places() {
    let simulator = start(|_| {}).await;
    let url = websocket(&simulator, "/api/v1/streaming");
    let attempt = async |name: &'static str, value: &'static str, url: &str| {
        let mut request = url.into_client_request().unwrap();
        if !name.is_empty() {
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        match connect_async(request).await {
            Ok(_) => "welcome".to_owned(),
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => {
                assert_eq!(answer.status(), 401);
                answer.headers()["x-error-message"].to_str().unwrap().to_owned()
            }
            Err(error) => panic!("{error}"),
        }
    };
    let with_token = websocket(&simulator, STREAMING);
    assert_eq!(attempt("", "", &url).await, "Missing access token");
    assert_eq!(attempt("", "", &with_token).await, "welcome");
    assert_eq!(attempt("authorization", "Bearer simulated-token", &url).await, "welcome");
    assert_eq!(attempt("authorization", "Bearer other", &with_token).await, "Invalid access token");
    assert_eq!(attempt("sec-websocket-protocol", "simulated-token", &url).await, "welcome");
    simulator.faults().set(Fault::Refuse, true);
    assert_eq!(attempt("", "", &with_token).await, "Invalid access token");
    assert_eq!(get(format!("{}/api/v1/timelines/public", simulator.mastodon_url())).await.0, 503);
}

#[tokio::test]
async fn posts_edits_and_deletes_are_streamed_in_envelopes() {
    let simulator = busy().await;
    let mut socket = connect(&websocket(&simulator, &format!("{STREAMING}&stream=public"))).await;
    let seen = receive_until(&mut socket, |seen| {
        events(seen, "update") > 50
            && events(seen, "status.update") > 3
            && events(seen, "delete") > 3
    })
    .await;
    for envelope in &seen {
        assert_eq!(envelope["stream"], json!(["public"]));
        let status = payload(envelope);
        match envelope["event"].as_str().unwrap() {
            "update" => assert!(status["edited_at"].is_null() && status["id"].is_string()),
            "status.update" => assert!(status["id"].is_string()),
            _ => assert!(envelope["payload"].as_str().unwrap().parse::<u64>().is_ok()),
        }
    }
}

#[tokio::test]
async fn a_connection_has_several_streams_and_rejects_unknown_ones() {
    let simulator = busy().await;
    let mut socket = connect(&websocket(&simulator, STREAMING)).await;
    let cases = [
        (r#"{"type":"subscribe","stream":"nowhere"}"#, "Unknown stream type"),
        (r#"{"type":"subscribe","stream":"hashtag"}"#, "Missing tag name parameter"),
        (
            r#"{"type":"subscribe","stream":"list","list":"1"}"#,
            "Not authorized to stream this list",
        ),
        (r#"{"type":"unsubscribe","stream":"nowhere"}"#, "Error unsubscribing from channel"),
    ];
    for (command, error) in cases {
        send(&mut socket, command).await;
        assert_eq!(receive_json(&mut socket).await["error"], error, "case: {command}");
    }
    send(&mut socket, r#"{"type":"subscribe","stream":["public:remote"]}"#).await;
    send(&mut socket, r#"{"type":"subscribe","stream":"hashtag:local","tag":"RustLang"}"#).await;
    let seen = receive_until(&mut socket, |seen| {
        let of = |stream: Value| seen.iter().any(|envelope| envelope["stream"] == stream);
        of(json!(["public:remote"])) && of(json!(["hashtag:local", "RustLang"]))
    })
    .await;
    for envelope in seen.iter().filter(|envelope| envelope["event"] == "update") {
        let status = payload(envelope);
        let remote = status["account"]["acct"].as_str().unwrap().contains('@');
        assert_eq!(remote, envelope["stream"][0] == "public:remote");
    }
    send(&mut socket, r#"{"type":"unsubscribe","stream":"public:remote"}"#).await;
    send(&mut socket, r#"{"type":"unsubscribe","stream":"hashtag:local","tag":"rustlang"}"#).await;
    until_stats(&simulator.mastodon_url(), |stats| {
        stats["subscriptions"].get("public:remote").is_none()
    })
    .await;
    socket.send(Message::binary(vec![1])).await.unwrap();
    assert!(ended(&mut socket).await.is_some());
}

#[tokio::test]
async fn a_client_that_does_not_respond_to_pings_is_disconnected() {
    let simulator = start(|options| options.ping_every = Duration::from_millis(100)).await;
    let base = simulator.mastodon_url();
    let mut polite = connect(&websocket(&simulator, &format!("{STREAMING}&stream=user"))).await;
    let polite = tokio::spawn(async move { while polite.next().await.is_some() {} });
    let _deaf = connect(&websocket(&simulator, &format!("{STREAMING}&stream=direct"))).await;
    until_stats(&base, |stats| {
        let wanted = &stats["subscriptions"];
        stats["accepted"] == 2 && wanted.get("direct").is_none() && wanted["user"] == 1
    })
    .await;
    assert!(!polite.is_finished());
}

#[tokio::test]
async fn timelines_have_the_pages_of_the_real_server() {
    let simulator = start(|options| options.rate = 1.0).await;
    let base = simulator.mastodon_url();
    let answer =
        http().get(format!("{base}/api/v1/timelines/public?limit=99")).send().await.unwrap();
    assert_eq!(answer.headers()["x-ratelimit-limit"], "300");
    let link = answer.headers()["link"].to_str().unwrap().to_owned();
    let list = |page: Value| -> Vec<u64> {
        let id = |status: &Value| status["id"].as_str().unwrap().parse().unwrap();
        page.as_array().unwrap().iter().map(id).collect()
    };
    let first = list(answer.json().await.unwrap());
    assert_eq!(first.len(), 40);
    assert!(first.is_sorted_by(|a, b| a > b));
    let next = link.split_once('>').unwrap().0.trim_start_matches('<');
    assert!(next.starts_with(&base) && next.contains("limit=99&max_id="), "{next}");
    let second = list(get(next.to_owned()).await.1);
    assert!(second[0] < first[39]);
    let page =
        async |query: String| list(get(format!("{base}/api/v1/timelines/public?{query}")).await.1);
    // The page is next to the cursor, although newer posts exist.
    assert_eq!(page(format!("limit=2&min_id={}", first[39])).await, [first[37], first[38]]);
    assert!(page(format!("limit=2&since_id={}", first[39])).await[0] >= first[0]);

    let (_, both) = get(format!("{base}/api/v1/statuses?id[]={}&id[]=1", second[5])).await;
    assert_eq!(list(both), [second[5]]);
    assert_eq!(get(format!("{base}/api/v1/statuses/{}", second[5])).await.0, 200);
    assert_eq!(get(format!("{base}/api/v1/statuses/1")).await.0, 404);
    let other = http().get(format!("{base}/api/v1/timelines/public")).bearer_auth("other");
    assert_eq!(other.send().await.unwrap().status(), 401);
}

#[tokio::test]
async fn rest_does_not_list_deleted_posts() {
    let simulator = busy().await;
    let mut socket = connect(&websocket(&simulator, &format!("{STREAMING}&stream=public"))).await;
    let seen = receive_until(&mut socket, |seen| events(seen, "delete") > 0).await;
    let id = seen.last().unwrap()["payload"].as_str().unwrap().to_owned();
    assert_eq!(get(format!("{}/api/v1/statuses/{id}", simulator.mastodon_url())).await.0, 404);
}

#[tokio::test]
async fn malformed_messages_are_sent_between_valid_ones() {
    let simulator = busy().await;
    simulator.faults().mastodon.set(Fault::Garbage, true);
    let mut socket = connect(&websocket(&simulator, &format!("{STREAMING}&stream=public"))).await;
    let seen = receive_until(&mut socket, |seen| events(seen, "update") > 200).await;
    let bad =
        |envelope: &&Value| envelope["event"] == "update" && payload(envelope)["id"].is_null();
    assert!(seen.iter().any(Value::is_null), "broken JSON or binary");
    assert!(seen.iter().filter(bad).count() > 0, "broken payloads");
}
