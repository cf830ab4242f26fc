//! Polling, with servers that a test controls.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use serde_json::json;
use simulator::MastodonServer;

use super::*;
use crate::source::mastodon::{
    snowflake,
    stand_in::{Rest, answer, out, outside},
};

#[test]
fn a_busy_server_is_polled_more_often() {
    let seconds = |interval: Duration| interval.as_secs_f64();
    let least = seconds(INTERVAL.0);
    let most = seconds(INTERVAL.1);
    let cases = [(5.0, 0, 7.5), (5.0, 3, 5.0), (5.0, 30, 2.5), (2.0, 40, least), (29.0, 0, most)];
    for (interval, fresh, expected) in cases {
        let next = seconds(next_interval(Duration::from_secs_f64(interval), fresh));
        assert!((next - expected).abs() < 0.001, "{interval} s, {fresh} posts: {next} s");
    }
}

#[test]
fn an_overlapping_page_returns_only_new_posts() {
    let page = |ids: &[u32]| Page {
        statuses: ids
            .iter()
            .map(|id| Status::new(json!({"id": id.to_string(), "uri": "u"})).expect("a status"))
            .collect(),
        len: ids.len(),
        newer: None,
    };
    let ids = |statuses: Vec<Status>| -> Vec<String> {
        statuses.iter().map(|status| status.id().into_owned()).collect()
    };
    let mut newest = Newest::default();
    assert_eq!(newest.min_id(), None);
    assert_eq!(ids(newest.add(page(&[100, 99, 8]))), ["8", "99", "100"]);
    assert_eq!(newest.min_id(), Some("8"), "a number with fewer digits is less");
    assert_eq!(ids(newest.add(page(&[101, 100, 50, 8]))), ["50", "101"], "50 arrived late");
    let many: Vec<u32> = (200..240).rev().collect();
    assert_eq!(newest.add(page(&many)).len(), 40);
    assert_eq!(newest.min_id(), Some("220"));
}

#[tokio::test]
async fn a_rejected_request_ends_the_session_with_its_reason() {
    let server = Rest::serve(|_, _| answer(422, &json!({"error": "nein"}))).await;
    let (mut out, _received) = out();
    let stop = CancellationToken::new();
    let gap = Gap::default();
    let recheck = Mutex::default();
    let api = server.api();
    let ended = session(&api, Part::Whole, &gap, &mut out, &stop, &recheck, |_| true).await;
    assert!(matches!(&ended, SessionEnd::Rejected(why) if why.contains("422")), "{ended}");
}

#[tokio::test]
async fn the_first_page_is_forwarded_even_if_later_requests_fail() {
    let first = snowflake::id(Timestamp::now());
    let page = json!([{"id": first, "uri": "u", "created_at": Timestamp::now()}]);
    let is_asked = Arc::new(AtomicBool::new(false));
    let server = Rest::serve(move |_, _| match is_asked.swap(true, Ordering::Relaxed) {
        false => answer(200, &page),
        true => answer(422, &json!({})),
    })
    .await;
    let (mut out, mut said) = out();
    let (stop, recheck, gap) = (CancellationToken::new(), Mutex::default(), Gap::default());
    let api = server.api();
    let ended = session(&api, Part::Whole, &gap, &mut out, &stop, &recheck, |_| true).await;
    assert!(matches!(ended, SessionEnd::Rejected(_)), "{ended}");
    let mut posts = Vec::new();
    while let Ok(event) = said.try_recv() {
        if let SessionEvent::Update(Update::Post(status)) = event {
            posts.push(status.id().into_owned());
        }
    }
    assert_eq!(posts, [first]);
}

#[tokio::test]
async fn new_posts_are_forwarded_and_deletes_are_detected() {
    let server = MastodonServer::start().await.expect("a port");
    let earlier = Timestamp::now() - Duration::from_secs(20);
    let first =
        server.status(&json!({"id": snowflake::id(earlier), "created_at": earlier.to_string()}));
    server.post(&first);
    let (mut out, mut said) = out();
    let stop = CancellationToken::new();
    let listening = stop.clone();
    let base = server.url().parse().expect("a URL");
    let api = Api::new(base, None, outside());
    let polling = tokio::spawn(async move {
        let recheck = Mutex::default();
        session(&api, Part::Whole, &Gap::default(), &mut out, &listening, &recheck, |_| true).await
    });
    assert!(matches!(said.recv().await, Some(SessionEvent::State(State::Live, _))));
    let id = |update: Option<SessionEvent>| match update {
        Some(SessionEvent::Update(Update::Post(status))) => status.id().into_owned(),
        Some(SessionEvent::Update(Update::Delete(id))) => format!("delete {id}"),
        Some(SessionEvent::Update(Update::Edit(status))) => format!("edit {}", status.id()),
        other => panic!("unexpected {other:?}"),
    };
    assert_eq!(id(said.recv().await), first["id"]);

    // Nothing else waits for a time, so the clock runs ahead to the next poll.
    tokio::time::pause();
    let second = server.status(&json!({}));
    server.post(&second);
    assert_eq!(id(said.recv().await), second["id"]);
    server.delete(&first);
    // A check of an existing post is an edit; the deleted post is a delete.
    let gone = format!("delete {}", first["id"].as_str().expect("an id"));
    let mut checks = 0;
    while id(said.recv().await) != gone {
        checks += 1;
        assert!(checks < 10, "the number of checks is bounded");
    }
    stop.cancel();
    assert!(matches!(polling.await, Ok(SessionEnd::Stopped)));
}
