//! Streaming, with servers that a test controls.

use axum::{body::Body, http::Response};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::*;
use crate::source::mastodon::{
    stand_in::{Client, Rest, Streaming, answer, out, outside, status},
    status::Update,
};

/// A server with one post on its timeline, and a session that has received it.
struct Stage {
    _rest: Rest,
    client: Client,
    headers: Vec<(String, String)>,
    received: mpsc::Receiver<SessionEvent>,
    stop: CancellationToken,
    session: tokio::task::JoinHandle<(SessionEnd, Out)>,
}

async fn stage() -> Stage {
    let post = status(Timestamp::now(), &json!({}));
    stage_with(move |_| json!([post])).await
}

/// The same, with a timeline that depends on the number of earlier requests for it.
async fn stage_with(page: impl Fn(usize) -> Value + Clone + Send + Sync + 'static) -> Stage {
    let mut stage = stage_answering(move |asked| answer(200, &page(asked))).await;
    // When this arrives, the gap is filled.
    assert!(matches!(stage.received.recv().await, Some(SessionEvent::Update(Update::Post(_)))));
    stage
}

/// A session that fills its gap. The answer to a request for the timeline depends on the number of earlier ones.
async fn stage_answering(
    page: impl Fn(usize) -> Response<Body> + Clone + Send + Sync + 'static,
) -> Stage {
    let asked = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let rest = Rest::serve(move |path, _| {
        if path.starts_with("/api/v1/timelines/public") {
            page(asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
        } else {
            answer(401, &json!({"error": "Posts are not checked here"}))
        }
    })
    .await;
    let streaming = Streaming::bind().await;
    let token = Some(secrecy::SecretString::from("secret"));
    let api = Api::new(rest.base.clone(), token, outside());
    let (mut out, mut received) = out();
    let stop = CancellationToken::new();
    let url = streaming.url.clone();
    let listening = stop.clone();
    let session = tokio::spawn(async move {
        let gap = Gap::default();
        (session(&api, &url, &gap, &mut out, &listening).await, out)
    });
    let (mut client, headers) = streaming.accept().await;
    assert_eq!(client.next().await, Message::text(r#"{"type":"subscribe","stream":"public"}"#));
    assert!(matches!(client.next().await, Message::Ping(_)), "the pong confirms the subscription");
    assert_eq!(received.recv().await, Some(SessionEvent::State(State::Live, String::new())));
    Stage { _rest: rest, client, headers, received, stop, session }
}

fn update(id: &str) -> Value {
    json!({"id": id, "uri": format!("https://a.example/{id}"), "visibility": "public"})
}

#[tokio::test]
async fn events_are_forwarded_in_order_and_other_messages_are_reported() {
    let post = status(Timestamp::now(), &json!({}));
    let mut stage = stage_with(move |asked| match asked {
        0 => json!([post]),
        _ => json!([]),
    })
    .await;
    let header = |name: &str| {
        stage.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(header("authorization"), Some("Bearer secret"));
    assert_eq!(header("user-agent"), Some("Headwater/test (+https://example.org)"));
    assert_eq!(header("sec-websocket-protocol"), None, "servers would use it as the token");

    stage.client.send("update", &update("1").to_string()).await;
    stage.client.send("status.update", &update("1").to_string()).await;
    stage.client.send("delete", "1").await;
    stage.client.send("announcement", "{}").await;
    for text in ["nonsense", r#"{"error":"Unknown stream type","status":400}"#] {
        stage.client.socket.send(Message::text(text)).await.expect("sent");
    }
    let said = async |stage: &mut Stage| loop {
        match stage.received.recv().await.expect("something said") {
            // The timeline is fetched again after the first event.
            SessionEvent::State(..) => {}
            event => return event,
        }
    };
    assert!(
        matches!(said(&mut stage).await, SessionEvent::Update(Update::Post(s)) if s.id() == "1")
    );
    assert!(
        matches!(said(&mut stage).await, SessionEvent::Update(Update::Edit(s)) if s.id() == "1")
    );
    assert_eq!(said(&mut stage).await, SessionEvent::Update(Update::Delete("1".into())));
    assert_eq!(said(&mut stage).await, SessionEvent::Unexpected(Unexpected::Other));
    assert_eq!(said(&mut stage).await, SessionEvent::Unexpected(Unexpected::Malformed));
    assert_eq!(said(&mut stage).await, SessionEvent::Unexpected(Unexpected::Error));

    stage.stop.cancel();
    assert!(
        matches!(stage.client.next().await, Message::Close(_)),
        "the client closes the connection"
    );
    let (ended, out) = stage.session.await.expect("no panic");
    assert!(matches!(ended, SessionEnd::Stopped));
    assert_eq!(out.forwarded, 4);
    assert_eq!(out.position.and_then(|position| position.id).as_deref(), Some("1"));
}

#[tokio::test]
async fn the_end_of_the_connection_ends_the_session() {
    let mut stage1 = stage().await;
    stage1.client.socket.close(None).await.expect("closed");
    assert!(matches!(stage1.session.await.expect("no panic").0, SessionEnd::Closed));

    let stage2 = stage().await;
    drop(stage2.client);
    let ended = stage2.session.await.expect("no panic").0;
    assert!(matches!(ended, SessionEnd::Closed | SessionEnd::Socket(_)), "{ended}");
}

#[tokio::test]
async fn a_silent_server_ends_the_session() {
    let stage = stage().await;
    let (ended, before) = {
        // Nothing answers the pings, so the clock advances to the timeout.
        tokio::time::pause();
        let before = Instant::now();
        (stage.session.await.expect("no panic").0, before)
    };
    assert!(matches!(ended, SessionEnd::Silent("the server stopped sending")), "{ended}");
    let waited = before.elapsed();
    assert!(waited <= DEAD + Duration::from_secs(1), "{waited:?}");
    drop(stage.client);
}

#[tokio::test]
async fn an_insufficient_token_is_a_rejection() {
    let mut stage = stage().await;
    let text = r#"{"error":"Access token does not have the required scopes","status":401}"#;
    stage.client.socket.send(Message::text(text)).await.expect("sent");
    assert!(matches!(stage.session.await.expect("no panic").0, SessionEnd::Rejected(_)));
}

#[tokio::test]
async fn rejected_upgrades_are_distinguished() {
    let rest = Rest::serve(|_, _| answer(200, &json!([]))).await;
    for (status, expected) in
        [(401, "refused"), (403, "refused"), (429, "limited"), (404, "closed")]
    {
        let streaming = Streaming::bind().await;
        let (mut out, _received) = out();
        let api = rest.api();
        let stop = CancellationToken::new();
        let gap = Gap::default();
        let (ended, ()) = tokio::join!(
            session(&api, &streaming.url, &gap, &mut out, &stop),
            streaming.refuse(status),
        );
        let kind = match ended {
            SessionEnd::Rejected(_) => "refused",
            SessionEnd::RateLimited(_) => "limited",
            SessionEnd::Closed => "closed",
            other => panic!("unexpected {other}"),
        };
        assert_eq!(kind, expected, "status {status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_arrive_while_a_gap_is_filled_are_forwarded_after_it() {
    let (asked, mut was_asked) = mpsc::unbounded_channel();
    let (go, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Arc::new(std::sync::Mutex::new(gate));
    let post = status(Timestamp::now(), &json!({}));
    let old = post["id"].as_str().expect("an id").to_owned();
    let rest = Rest::serve(move |_, _| {
        let _ = asked.send(());
        let _ = tokio::task::block_in_place(|| gate.lock().expect("not poisoned").recv());
        answer(200, &json!([post]))
    });
    let (rest, streaming) = tokio::join!(rest, Streaming::bind());
    let (mut out, mut received) = out();
    let api = rest.api();
    let url = streaming.url.clone();
    let stop = CancellationToken::new();
    let listening = stop.clone();
    let session =
        tokio::spawn(
            async move { session(&api, &url, &Gap::default(), &mut out, &listening).await },
        );
    let (mut client, _) = streaming.accept().await;
    was_asked.recv().await.expect("the gap is being filled");
    client.send("update", &update("2").to_string()).await;
    client.send("delete", &old).await;
    client.socket.send(Message::text("nonsense")).await.expect("sent");
    assert!(matches!(received.recv().await, Some(SessionEvent::State(State::Live, _))));
    assert_eq!(
        received.recv().await,
        Some(SessionEvent::Unexpected(Unexpected::Malformed)),
        "the messages are read meanwhile"
    );
    go.send(()).expect("the server waits");
    let mut order = Vec::new();
    for _ in 0..3 {
        order.push(match received.recv().await {
            Some(SessionEvent::Update(Update::Post(status))) => status.id().into_owned(),
            Some(SessionEvent::Update(Update::Delete(id))) => format!("delete {id}"),
            other => panic!("unexpected {other:?}"),
        });
    }
    assert_eq!(order, [old.clone(), "2".to_owned(), format!("delete {old}")]);
    stop.cancel();
    assert!(matches!(session.await.expect("no panic"), SessionEnd::Stopped));
}

#[tokio::test]
async fn a_gap_is_filled_again_if_that_failed() {
    let missed = status(Timestamp::now(), &json!({}));
    let id = missed["id"].as_str().expect("an id").to_owned();
    let mut stage = stage_answering(move |asked| match asked {
        0 => answer(500, &json!({})),
        _ => answer(200, &json!([missed])),
    })
    .await;
    let missing = "posts of a gap could not be fetched".to_owned();
    let expected = [
        SessionEvent::State(State::Live, missing),
        SessionEvent::State(State::Live, String::new()),
    ];
    let mut states = Vec::new();
    let mut posts = Vec::new();
    while states.len() < 2 {
        match stage.received.recv().await.expect("an event") {
            SessionEvent::Update(update) => posts.push(update.id()),
            state => states.push(state),
        }
    }
    assert_eq!((states, posts), (expected.to_vec(), vec![id]));
}

/// A session whose first look at the timeline finds nothing. Returns the id of the post that a later one finds.
async fn stage_that_began_late() -> (Stage, String) {
    let missed = status(Timestamp::now(), &json!({}));
    let id = missed["id"].as_str().expect("an id").to_owned();
    let stage = stage_answering(move |asked| match asked {
        0 => answer(200, &json!([])),
        _ => answer(200, &json!([missed])),
    });
    (stage.await, id)
}

#[tokio::test]
async fn posts_from_before_the_stream_began_are_fetched_when_it_has_begun() {
    let (mut stage, id) = stage_that_began_late().await;
    stage.client.send("update", &update("1").to_string()).await;
    for expected in ["1", &id] {
        match stage.received.recv().await {
            Some(SessionEvent::Update(Update::Post(status))) => assert_eq!(status.id(), expected),
            other => panic!("unexpected {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_quiet_stream_has_begun_when_the_server_answers_a_ping() {
    let (mut stage, id) = stage_that_began_late().await;
    // Reading sends the pong.
    let post = tokio::select! {
        message = stage.client.next() => panic!("unexpected {message:?}"),
        event = stage.received.recv() => event,
    };
    match post {
        Some(SessionEvent::Update(Update::Post(status))) => assert_eq!(status.id(), id),
        other => panic!("unexpected {other:?}"),
    }
}

#[tokio::test]
async fn a_stream_that_stops_while_the_timeline_has_new_posts_ends_the_session() {
    let at = |minutes| Timestamp::now() - Duration::from_mins(minutes);
    let mut stage = stage_with(move |asked| {
        // At first the newest post is old. Later there is a recent one that was not streamed.
        json!([status(at(if asked < 3 { 30 } else { 5 }), &json!({}))])
    })
    .await;
    tokio::time::pause();
    let began = Instant::now();
    let mut ping = time::interval(Duration::from_secs(30));
    let pinging = async {
        loop {
            ping.tick().await;
            if stage.client.socket.send(Message::Ping(bytes::Bytes::new())).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    let ended = tokio::select! {
        ended = stage.session => ended.expect("no panic").0,
        () = pinging => unreachable!("it does not end"),
    };
    assert!(matches!(ended, SessionEnd::Silent(why) if why.contains("timeline")), "{ended}");
    let minutes = began.elapsed().as_secs() / 60;
    assert!((19..=20).contains(&minutes), "the second look found it, after {minutes} minutes");
}
