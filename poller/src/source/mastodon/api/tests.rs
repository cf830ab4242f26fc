//! Requests to servers that a test controls.

use axum::{body::Body, http::Response};
use serde_json::json;

use super::*;
use crate::source::mastodon::{
    fixtures,
    instance::Access,
    stand_in::{Rest, answer, outside},
};

#[tokio::test]
async fn version_1_is_requested_if_a_server_lacks_version_2() {
    let server = Rest::serve(|asked, _| match asked {
        "/api/v1/instance" => answer(
            200,
            &json!({"uri": "old.example", "urls": {"streaming_api": "ws://old.example"}}),
        ),
        _ => answer(404, &json!({"error": "Not found"})),
    })
    .await;
    let instance = server.api().instance().await.expect("an answer");
    assert_eq!(instance.domain, "old.example");
    assert_eq!(instance.local, Access::Public);
    assert_eq!(server.asked(), ["/api/v2/instance", "/api/v1/instance"]);
}

#[tokio::test]
async fn requests_have_a_user_agent_a_token_and_escaped_parameters() {
    let server = Rest::serve(|_, headers| {
        assert_eq!(headers["user-agent"], "Headwater/test (+https://example.org)");
        assert_eq!(headers["authorization"], "Bearer secret");
        answer(200, &json!([]))
    })
    .await;
    let token = Some(SecretString::from("secret"));
    let api = Api::new(server.base.clone(), token, outside());
    api.page(Part::Local, Some("a&b")).await.expect("a page");
    let ids = ["1".to_owned(), "2/../3".to_owned()];
    api.statuses(&ids).await.expect("statuses");
    let _ = api.status("2/../3").await;
    assert_eq!(
        server.asked(),
        [
            "/api/v1/timelines/public?limit=40&local=true&min_id=a%26b",
            "/api/v1/statuses?id%5B%5D=1&id%5B%5D=2%2F..%2F3",
            "/api/v1/statuses/2%2F..%2F3",
        ]
    );
}

#[tokio::test]
async fn a_token_is_not_sent_to_another_host() {
    let other = Rest::serve(|_, _| answer(200, &json!([]))).await;
    let to = other.base.clone();
    let server = Rest::serve(move |asked, _| {
        let link = format!("<{to}api/v1/timelines/public?min_id=1>; rel=\"prev\"");
        let (status, header, value) = if asked.starts_with("/api/v1/timelines/public") {
            (200, "link", link.as_str())
        } else {
            (301, "location", to.as_str())
        };
        let answer = Response::builder().status(status).header(header, value);
        answer.body(Body::from("[]")).expect("an answer")
    })
    .await;
    let page = server.api().page(Part::Whole, None).await.expect("a page");
    assert_eq!(page.newer, None);
    let redirected = server.api().status("1").await;
    assert!(matches!(redirected, Err(ApiError::Status(StatusCode::MOVED_PERMANENTLY))));
    assert_eq!(other.asked(), [""; 0]);
}

#[tokio::test]
async fn a_link_to_the_same_host_is_followed() {
    let server = Rest::serve(|asked, headers| {
        let host = headers["host"].to_str().expect("a host");
        let path = asked.split('?').next().expect("a path");
        let link = format!(
            "<http://{host}{path}?max_id=1>; rel=\"next\", <http://{host}{path}?min_id=2>; rel=\"prev\""
        );
        Response::builder().header("link", link).body(Body::from("[]")).expect("an answer")
    })
    .await;
    let page = server.api().page(Part::Whole, None).await.expect("a page");
    let newer = page.newer.expect("a link");
    assert!(newer.as_str().ends_with("/api/v1/timelines/public?min_id=2"), "{newer}");
}

#[tokio::test]
async fn a_response_that_is_too_large_is_rejected() {
    let server =
        Rest::serve(|_, _| Response::new(Body::from(vec![b' '; MAX_BODY_BYTES + 1]))).await;
    assert!(matches!(server.api().page(Part::Whole, None).await, Err(ApiError::TooLarge)));
}

#[tokio::test]
async fn errors_are_distinguished() {
    for (status, refused) in [(401, true), (403, true), (422, true), (404, false), (500, false)] {
        let server = Rest::serve(move |_, _| answer(status, &json!({"error": "nein"}))).await;
        let error = server.api().page(Part::Whole, None).await.expect_err("refused");
        assert_eq!(error.permanent_reason().is_some(), refused, "status {status}");
    }
    let server = Rest::serve(|_, _| {
        let answer = Response::builder().status(429).header("retry-after", "7");
        answer.body(Body::empty()).expect("an answer")
    })
    .await;
    let error = server.api().page(Part::Whole, None).await.expect_err("limited");
    assert!(matches!(error, ApiError::RateLimited(wait) if wait == Duration::from_secs(7)));
}

#[test]
fn a_rate_limit_is_spread_over_its_window() {
    let at = |text: &str| text.parse::<Timestamp>().expect("a time");
    let now = at("2026-11-22T12:00:00Z");
    let cases = [
        ("plenty", 299, "2026-11-22T12:05:00Z", 1.0),
        ("little", 2, "2026-11-22T12:05:00Z", 100.0),
        ("none", 0, "2026-11-22T12:05:00.5Z", 300.5),
        ("cached", 0, "2026-11-22T11:00:00Z", 0.0),
        ("far", 0, "2026-12-22T11:00:00Z", 600.0),
        ("as many as there are numbers", u32::MAX, "2026-11-22T12:05:00Z", 0.0),
    ];
    for (name, remaining, reset, expected) in cases {
        let pause = RateLimit { remaining, reset: at(reset) }.pause(now);
        assert!((pause.as_secs_f64() - expected).abs() < 0.01, "case: {name}: {pause:?}");
    }
}

#[tokio::test]
async fn recorded_pages_are_read() {
    for line in fixtures::lines("pages.jsonl", "rest-hashtag-paging.jsonl") {
        let link = line["link"].as_str().unwrap_or_default();
        let statuses = line["body"].as_array().expect("a page").clone();
        let newest =
            statuses.first().map(|status| status["id"].as_str().expect("an id").to_owned());
        let read = statuses.into_iter().filter_map(Status::new).count();
        assert_eq!(read, line["body"].as_array().expect("a page").len());
        let newer = prev(link).map(|url| url.query().unwrap_or_default().to_owned());
        if let (Some(newest), Some(newer)) = (newest, newer) {
            assert!(newer.contains(&format!("min_id={newest}")), "{newer}");
        }
    }
    for line in fixtures::lines("errors.jsonl", "http-errors.jsonl") {
        if !line["at"].as_str().is_some_and(|at| at.contains("/timelines/public")) {
            continue;
        }
        let status = line["status"].as_u64().and_then(|s| u16::try_from(s).ok()).expect("a status");
        let server = Rest::serve(move |_, _| answer(status, &json!({}))).await;
        let error = server.api().page(Part::Whole, None).await.expect_err("refused");
        assert!(error.permanent_reason().is_some(), "{line}");
    }
}
