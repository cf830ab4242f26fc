//! Gaps, with a server that a test controls.

use serde_json::{Value, json};

use super::*;
use crate::source::mastodon::{
    session::Position,
    stand_in::{Rest, answer, status},
};

fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).expect("a time")
}

/// Statuses, newest first: one every `step`, the newest at `now`.
fn statuses(now: Timestamp, count: u32, step: Duration) -> Vec<Value> {
    (0..count).map(|n| status(now - step * n, &json!({}))).collect()
}

/// Starts a server with these statuses. It announces no rate limit, so requests need not wait for
/// each other, and its ids can be of any kind.
async fn serve(statuses: Vec<Value>) -> Rest {
    Rest::serve(move |asked, _| {
        let by_id: Vec<&Value> = statuses
            .iter()
            .filter(|status| asked.contains(status["id"].as_str().expect("an id")))
            .collect();
        match asked {
            _ if asked.starts_with("/api/v1/timelines/public") => {
                answer(200, &timeline(&statuses, asked))
            }
            _ if asked.starts_with("/api/v1/statuses?") => answer(200, &json!(by_id)),
            _ => answer(404, &json!({})),
        }
    })
    .await
}

/// Returns the page of the timeline that a request asks for. `statuses` has the newest first.
fn timeline(statuses: &[Value], asked: &str) -> Value {
    let min_id = asked.split(['?', '&']).find_map(|pair| pair.strip_prefix("min_id="));
    let is_newer = |status: &&Value| {
        let id = status["id"].as_str().expect("an id");
        min_id.is_none_or(|min| (id.len(), id) > (min.len(), min))
    };
    let newer: Vec<&Value> = statuses.iter().filter(is_newer).collect();
    let first = if min_id.is_some() { newer.len().saturating_sub(40) } else { 0 };
    json!(newer.into_iter().skip(first).take(40).collect::<Vec<_>>())
}

async fn run(api: &Api, part: Part, gap: &Gap) -> Filled {
    super::run(api, part, gap, None).await
}

fn gap(at: Timestamp) -> Gap {
    Gap { since: Some(Position { at, id: None }), check: vec![] }
}

fn ids(filled: &Filled) -> Vec<String> {
    let id = |update: &Update| match update {
        Update::Post(status) => status.id().into_owned(),
        Update::Edit(status) => format!("edit {}", status.id()),
        Update::Delete(id) => format!("delete {id}"),
    };
    filled.updates.iter().map(id).collect()
}

#[tokio::test]
async fn a_gap_is_filled_from_a_little_before_it_oldest_first() {
    let now = now();
    let server = serve(statuses(now, 1_000, Duration::from_secs(1))).await;
    let filled = run(&server.api_at(now), Part::Whole, &gap(now - Duration::from_mins(3))).await;
    assert_eq!(filled.missing, "");
    let start = now - Duration::from_mins(6);
    let expected: Vec<String> =
        (1..=360).map(|n| snowflake::id(start + Duration::from_secs(n))).collect();
    assert_eq!(ids(&filled), expected);
    // The newest page, nine full ones, and one that is empty.
    assert_eq!(server.asked().len(), 11);
}

#[tokio::test]
async fn a_short_gap_of_a_quiet_server_takes_one_request() {
    let now = now();
    let server = serve(statuses(now, 100, Duration::from_mins(1))).await;
    let filled = run(&server.api_at(now), Part::Whole, &gap(now - Duration::from_mins(3))).await;
    assert_eq!((ids(&filled).len(), filled.missing), (7, ""));
    assert_eq!(server.asked(), ["/api/v1/timelines/public?limit=40"]);
}

#[tokio::test]
async fn the_first_session_starts_with_the_newest_posts_of_the_last_hour() {
    let now = now();
    let server = serve(statuses(now, 100, Duration::from_mins(5))).await;
    let filled = run(&server.api_at(now), Part::Whole, &Gap::default()).await;
    assert_eq!((ids(&filled).len(), filled.missing), (13, ""));
    let server = serve(vec![]).await;
    let filled = run(&server.api_at(now), Part::Whole, &Gap::default()).await;
    assert_eq!((ids(&filled).len(), filled.missing), (0, ""));
}

#[tokio::test]
async fn the_first_session_with_a_busy_server_starts_two_minutes_ago() {
    let now = now();
    let server = serve(statuses(now, 200, Duration::from_secs(1))).await;
    let filled = run(&server.api_at(now), Part::Whole, &Gap::default()).await;
    assert_eq!((filled.updates.len(), filled.missing), (120, ""));
    assert_eq!(ids(&filled)[0], snowflake::id(now - Duration::from_secs(119)));
}

#[tokio::test]
async fn the_number_of_pages_is_bounded_and_missing_posts_are_reported() {
    let now = now();
    let server = serve(statuses(now, 4_000, Duration::from_millis(500))).await;
    let filled = run(&server.api_at(now), Part::Whole, &gap(now - Duration::from_mins(20))).await;
    assert_eq!(ids(&filled).len(), MAX_PAGES * PAGE);
    assert_eq!(filled.missing, "a gap had too many posts to fetch them all");

    let server = serve(statuses(now, 100, Duration::from_mins(1))).await;
    let filled = run(&server.api_at(now), Part::Whole, &gap(now - Duration::from_hours(9))).await;
    assert_eq!(filled.missing, "a gap started too long ago to be filled completely");

    let server = Rest::serve(|_, _| answer(500, &json!({}))).await;
    let filled = run(&server.api_at(now), Part::Whole, &gap(now)).await;
    assert_eq!(filled.missing, "posts of a gap could not be fetched");
}

#[tokio::test]
async fn without_times_in_ids_a_gap_is_filled_from_the_last_known_id() {
    let now = now();
    let all: Vec<Value> = (0..200_u32)
        .rev()
        .map(|n| {
            let at = now - Duration::from_secs(1) * (200 - n);
            status(at, &json!({"id": format!("01KDZ{n:03}")}))
        })
        .collect();
    let server = serve(all).await;
    let at = now - Duration::from_mins(1);
    let known = Gap { since: Some(Position { at, id: Some("01KDZ120".into()) }), check: vec![] };
    let filled = run(&server.api_at(now), Part::Whole, &known).await;
    assert_eq!((ids(&filled).len(), filled.missing), (79, ""));
    let filled = run(&server.api_at(now), Part::Whole, &gap(at)).await;
    assert_eq!(ids(&filled).len(), 40, "the newest page");
    assert_eq!(filled.missing, "a gap cannot be filled: the server's ids contain no time");
}

#[tokio::test]
async fn a_post_that_is_missing_after_a_gap_is_deleted() {
    let now = now();
    let server = serve(statuses(now, 3, Duration::from_secs(1))).await;
    let there = snowflake::id(now);
    let gone = snowflake::id(now - Duration::from_mins(1));
    let check = vec![there.clone(), gone.clone()];
    let filled = run(&server.api_at(now), Part::Whole, &Gap { check, ..gap(now) }).await;
    assert_eq!(ids(&filled)[..2], [format!("edit {there}"), format!("delete {gone}")]);
}

#[tokio::test]
async fn a_server_without_requests_for_several_statuses_gets_single_requests() {
    let there = status(now(), &json!({}));
    let id = there["id"].as_str().expect("an id").to_owned();
    // One server does not support the request, and the other returns an empty list.
    for several in [404, 200] {
        let there = there.clone();
        let single = format!("/api/v1/statuses/{id}");
        let server = Rest::serve(move |asked, _| match asked {
            _ if asked.starts_with("/api/v1/statuses?") => answer(several, &json!([])),
            _ if asked == single => answer(200, &there),
            _ => answer(404, &json!({})),
        })
        .await;
        let update = check(&server.api(), &[id.clone(), "9".into()]).await.expect("an answer");
        assert!(
            matches!(&update[..], [Update::Edit(_), Update::Delete(gone)] if gone == "9"),
            "{update:?}"
        );
    }
    let server = Rest::serve(|_, _| answer(401, &json!({}))).await;
    assert!(
        check(&server.api(), &["9".into()]).await.is_err(),
        "a rejected request deletes nothing"
    );
}
