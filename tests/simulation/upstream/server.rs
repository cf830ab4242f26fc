//! The Mastodon server: its stream, and its REST interface.

use jiff::Timestamp;
use reqwest::{Url, header::HeaderMap};
use serde_json::{Value, json};

use super::{
    Change, ORIGIN, Post, Upstream,
    connection::{Connection, Happening},
    text,
};

/// The host of the REST interface.
pub(super) const HOST: &str = "social.invalid";

/// The host of the stream.
pub(super) const STREAMING_HOST: &str = "streaming.social.invalid";

/// Statuses on a page.
const PAGE: usize = 40;

/// Answers a request of the REST interface. Returns the headers and the body, if it exists.
pub(super) fn respond(upstream: &Upstream, url: &Url) -> Option<(HeaderMap, Value)> {
    let path: Vec<&str> = url.path_segments()?.collect();
    let query = |key: &str| {
        let pairs = url.query_pairs().filter(|(name, _)| name == key);
        pairs.map(|(_, value)| value.into_owned()).collect::<Vec<_>>()
    };
    let events = upstream.events.lock();
    let posts = events.posts.iter().filter(|post| !post.is_deleted);
    let body = match path[..] {
        ["api", "v2", "instance"] => json!({
            "domain": HOST,
            "configuration": {"urls": {"streaming": format!("wss://{STREAMING_HOST}")}},
        }),
        ["api", "v1", "timelines", "public"] => {
            let after: Option<u64> = query("min_id").first().and_then(|id| id.parse().ok());
            let mut page: Vec<Value> = match after {
                Some(after) => {
                    posts.filter(|post| id(post) > after).take(PAGE).map(status).collect()
                }
                None => {
                    let mut newest: Vec<_> = posts.rev().take(PAGE).map(status).collect();
                    newest.reverse();
                    newest
                }
            };
            page.reverse();
            page.into()
        }
        ["api", "v1", "statuses"] => {
            let ids = query("id[]");
            posts.filter(|post| ids.contains(&id(post).to_string())).map(status).collect()
        }
        ["api", "v1", "statuses", asked] => {
            let mut posts = posts;
            status(posts.find(|post| id(post).to_string() == asked)?)
        }
        _ => return None,
    };
    Some((HeaderMap::new(), body))
}

/// Serves a connection to the stream.
pub(super) async fn serve(mut connection: Connection) {
    // How many changes were sent.
    let mut sent = None;
    while let Some(happening) = connection.next().await {
        let changes = connection.upstream.events.lock().changes.len();
        match (happening, sent) {
            (Happening::Request(request), None) if request["type"] == "subscribe" => {
                sent = Some(changes);
            }
            (Happening::Moved, Some(from)) => {
                for index in from..changes {
                    let message = envelope(&connection.upstream, index);
                    connection.send(&message);
                }
                sent = Some(changes);
            }
            _ => {}
        }
    }
}

/// Returns the message about a change.
fn envelope(upstream: &Upstream, index: usize) -> Value {
    let events = upstream.events.lock();
    let (event, payload) = match events.changes[index] {
        Change::Posted(post) => ("update", status(&events.posts[post]).to_string()),
        Change::Deleted(post) => ("delete", id(&events.posts[post]).to_string()),
    };
    json!({"stream": ["public"], "event": event, "payload": payload})
}

/// Returns the server's id of a post, which contains its time.
fn id(post: &Post) -> u64 {
    let ms = u64::try_from(post.at.as_millisecond()).unwrap_or(0);
    (ms << 16) + post.number
}

fn status(post: &Post) -> Value {
    let at: Timestamp = post.at;
    json!({
        "id": id(post).to_string(),
        "uri": format!("{ORIGIN}{}", post.number),
        "created_at": at,
        "visibility": "public",
        "content": format!("<p>{}</p>", text(post.number)),
        "account": {"acct": "ana"},
        "tags": [{"name": post.topic.as_str().rsplit('/').next()}],
    })
}
