//! The Mastodon server's REST interface: the instance, timelines and single statuses.

use std::{
    iter,
    sync::{Arc, atomic::Ordering},
};

use axum::{
    Json, Router,
    extract::{Path, RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    instance::Mastodon,
    query::Query,
    streams::{Stream, Unknown},
};
use crate::{faults::Fault, stats::Stats, timeline::Toot};

/// The version that the server reports. Clients can see that the server is simulated.
const VERSION: &str = "4.6.4+simulated";
/// The length of the rate limit's window in seconds.
const WINDOW: i64 = 300;

/// Returns the REST routes.
pub(super) fn router(server: Arc<Mastodon>) -> Router {
    Router::new()
        .route("/api/v2/instance", get(instance))
        .route("/api/v1/timelines/public", get(public))
        .route("/api/v1/statuses", get(statuses))
        .route("/api/v1/statuses/{id}", get(status))
        .fallback(async || failure(StatusCode::NOT_FOUND, "Not Found"))
        .layer(middleware::from_fn_with_state(Arc::clone(&server), gate))
        .with_state(server)
}

/// Rejects invalid tokens, and reports a rate limit that is not enforced.
async fn gate(State(server): State<Arc<Mastodon>>, request: Request, next: Next) -> Response {
    Stats::add(&server.host.stats.requests, 1);
    if server.host.switch.is_on(Fault::Refuse) {
        return failure(StatusCode::SERVICE_UNAVAILABLE, "Service Unavailable");
    }
    let query = Query::parse(request.uri().query());
    let anonymous = !request.headers().contains_key(header::AUTHORIZATION)
        && query.get("access_token").is_none();
    if !anonymous && server.authorize(request.headers(), &query).is_err() {
        return failure(StatusCode::UNAUTHORIZED, "The access token is invalid");
    }
    let mut response = next.run(request).await;
    let requests = server.host.stats.requests.load(Ordering::Relaxed);
    let window_end = (Timestamp::now().as_second() / WINDOW + 1) * WINDOW;
    let reset = Timestamp::from_second(window_end).unwrap_or(Timestamp::MAX);
    for (name, value) in [
        ("x-ratelimit-limit", "300".to_owned()),
        ("x-ratelimit-remaining", (299 - requests % 299).to_string()),
        ("x-ratelimit-reset", format!("{reset:.6}")),
    ] {
        if let Ok(value) = HeaderValue::try_from(value) {
            response.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    response
}

async fn instance(State(server): State<Arc<Mastodon>>) -> Json<Value> {
    let level = if server.requires_token() { "authenticated" } else { "public" };
    let access = json!({"local": level, "remote": level});
    Json(json!({
        "domain": server.domain,
        "title": "Simulated Mastodon",
        "version": VERSION,
        "source_url": "https://github.com/mastodon/mastodon",
        "description": "A simulator generates all posts of this server.",
        "usage": {"users": {"active_month": 44}},
        "languages": ["en"],
        "configuration": {
            "urls": {"streaming": server.streaming_url, "about": null, "terms_of_service": null},
            "statuses": {
                "max_characters": 500,
                "max_media_attachments": 4,
                "characters_reserved_per_url": 23,
            },
            "polls": {"max_options": 4, "max_characters_per_option": 50},
            "timelines_access": {
                "live_feeds": access, "hashtag_feeds": access, "trending_link_feeds": access,
            },
            "limited_federation": false,
        },
        "registrations": {"enabled": false, "approval_required": true, "message": null},
        "api_versions": {"mastodon": 11},
        "contact": {"email": "", "account": null},
        "rules": [],
    }))
}

async fn public(
    State(server): State<Arc<Mastodon>>,
    headers: HeaderMap,
    RawQuery(raw): RawQuery,
) -> Response {
    let query = Query::parse(raw.as_deref());
    if server.requires_token() && server.authorize(&headers, &query).is_err() {
        return failure(
            StatusCode::UNPROCESSABLE_ENTITY,
            "This method requires an authenticated user",
        );
    }
    let name = match (query.is_set("local"), query.is_set("remote")) {
        (true, false) => "public:local",
        (false, true) => "public:remote",
        _ => "public",
    };
    let media = if query.is_set("only_media") { ":media" } else { "" };
    let stream = Stream::named(&format!("{name}{media}"), None);
    timeline(&server, stream, &headers, "/api/v1/timelines/public", &query)
}

/// Returns one page of the posts of a stream, newest first.
fn timeline(
    server: &Mastodon,
    stream: Result<Stream, Unknown>,
    headers: &HeaderMap,
    page: &str,
    query: &Query,
) -> Response {
    let Ok(stream) = stream else {
        return failure(StatusCode::NOT_FOUND, "Record not found");
    };
    let limit = query.get("limit").and_then(|text| text.parse().ok()).unwrap_or(20).clamp(1, 40);
    let below = query.id("max_id").unwrap_or(u64::MAX);
    let above = query.id("since_id").max(query.id("min_id")).map_or(0, |id| id.saturating_add(1));
    let timeline = server.timeline();
    let posts = timeline
        .posts
        .range(above.min(below)..below)
        .map(|(_, post)| post)
        .filter(|post| stream.contains(post))
        .cloned();
    let listed: Vec<Arc<Toot>> = if query.id("min_id").is_some() {
        // The page is the one next to the cursor and not the newest one. It starts with the newest post.
        let mut next: Vec<_> = posts.take(limit).collect();
        next.reverse();
        next
    } else {
        posts.rev().take(limit).collect()
    };
    drop(timeline);

    let mut response = list(&listed);
    if let (Some(newest), Some(oldest)) = (listed.first(), listed.last()) {
        let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
        let base = format!("http://{}{page}", host.unwrap_or(&server.domain));
        let next = query.page("max_id", oldest.id);
        let prev = query.page("min_id", newest.id);
        let link = format!(r#"<{base}?{next}>; rel="next", <{base}?{prev}>; rel="prev""#);
        if let Ok(link) = HeaderValue::try_from(link) {
            response.headers_mut().insert(header::LINK, link);
        }
    }
    response
}

async fn status(State(server): State<Arc<Mastodon>>, Path(id): Path<String>) -> Response {
    let id: u64 = id.parse().unwrap_or(0);
    let found = server.timeline().posts.get(&id).cloned();
    match found {
        None => failure(StatusCode::NOT_FOUND, "Record not found"),
        Some(post) => json_text(post.text.clone()),
    }
}

async fn statuses(State(server): State<Arc<Mastodon>>, RawQuery(raw): RawQuery) -> Response {
    let query = Query::parse(raw.as_deref());
    let ids: Vec<u64> = query.all("id[]").chain(query.all("id")).flat_map(str::parse).collect();
    if ids.len() > 20 {
        return failure(StatusCode::UNPROCESSABLE_ENTITY, "Too many ids");
    }
    let timeline = server.timeline();
    let found: Vec<_> = ids.iter().filter_map(|id| timeline.posts.get(id).cloned()).collect();
    drop(timeline);
    list(&found)
}

fn list(posts: &[Arc<Toot>]) -> Response {
    let texts: Vec<&str> = posts.iter().map(|post| post.text.as_str()).collect();
    json_text(iter::once("[").chain([texts.join(",").as_str(), "]"]).collect())
}

fn json_text(text: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json; charset=utf-8")], text).into_response()
}

fn failure(status: StatusCode, error: &str) -> Response {
    (status, Json(json!({"error": error}))).into_response()
}
