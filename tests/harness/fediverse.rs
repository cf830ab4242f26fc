//! A stand-in for a Mastodon server that says what a test has it say.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc::{self, UnboundedSender};

use crate::{
    site::{self, Answer, Order, Request, Site, Socket},
    until,
};

/// The token that a server takes.
const TOKEN: &str = "a-token-for-tests";

/// A running server: instance, public timeline, statuses and streaming on one port.
pub struct Fediverse {
    server: Arc<Server>,
}

struct Server {
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Oldest first.
    statuses: Vec<Value>,
    made: u64,
    lines: Vec<(usize, UnboundedSender<Order>, bool)>,
    accepted: usize,
    is_closed: bool,
}

impl Fediverse {
    /// Opens a server without posts.
    pub async fn start() -> Self {
        let state = Mutex::default();
        Self { server: site::serve(|address| Server { address, state }).await }
    }

    /// Its base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.server.address)
    }

    /// What it is called in topics and tokens.
    pub fn host(&self) -> String {
        self.server.address.to_string()
    }

    /// Its token, as the configuration has it.
    pub fn token(&self) -> String {
        format!("{}={TOKEN}", self.host())
    }

    /// Waits until a client streams the public timeline.
    pub async fn streamed(&self) {
        until("somebody streams the public timeline", async || {
            self.server.state.lock().lines.iter().any(|(_, _, is_public)| *is_public).then_some(())
        })
        .await;
    }

    /// A status of its own, with some members changed.
    pub fn status(&self, changes: &Value) -> Value {
        let mut state = self.server.state.lock();
        state.made += 1;
        let now = Timestamp::now();
        // Mastodon's ids hold the time.
        let id = (u64::try_from(now.as_millisecond()).unwrap() << 16) + state.made;
        let mut status = json!({
            "id": id.to_string(),
            "uri": format!("http://{}/users/ana/statuses/{id}", self.host()),
            "url": format!("http://{}/@ana/{id}", self.host()),
            "created_at": now.to_string(),
            "edited_at": null,
            "visibility": "public",
            "language": "en",
            "content": "<p>Hello</p>",
            "spoiler_text": "",
            "sensitive": false,
            "account": {
                "id": "1", "acct": "ana", "username": "ana", "display_name": "Ana",
                "url": format!("http://{}/@ana", self.host()), "note": "", "fields": [],
            },
            "tags": [], "mentions": [], "media_attachments": [], "reblog": null,
        });
        for (key, value) in changes.as_object().into_iter().flatten() {
            status[key] = value.clone();
        }
        status
    }

    /// Publishes a status.
    pub fn post(&self, status: &Value) {
        let mut state = self.server.state.lock();
        state.statuses.push(status.clone());
        state.tell("update", &status.to_string());
    }

    /// Publishes a status that has an edit.
    pub fn edit(&self, status: &Value) {
        let mut state = self.server.state.lock();
        if let Some(old) = state.statuses.iter_mut().find(|old| old["id"] == status["id"]) {
            *old = status.clone();
        }
        state.tell("status.update", &status.to_string());
    }

    /// Deletes a status.
    pub fn delete(&self, status: &Value) {
        let mut state = self.server.state.lock();
        state.statuses.retain(|old| old["id"] != status["id"]);
        state.tell("delete", status["id"].as_str().unwrap());
    }

    /// Breaks all streams.
    pub fn drop_all(&self) {
        // Forgotten at once: what is posted from here on is not told to them.
        for (_, orders, _) in self.server.state.lock().lines.drain(..) {
            let _ = orders.send(Order::Drop);
        }
    }

    /// Shows its timeline to nobody, from here on.
    pub fn close_to_strangers(&self) {
        self.server.state.lock().is_closed = true;
    }

    /// How long after an edit another one counts as later.
    pub fn later(status: &Value) -> String {
        let at: Timestamp = status["created_at"].as_str().unwrap().parse().unwrap();
        (at + Duration::from_mins(1)).to_string()
    }
}

impl State {
    fn tell(&self, event: &str, payload: &str) {
        let text = json!({"stream": ["public"], "event": event, "payload": payload}).to_string();
        for (_, orders, _) in self.lines.iter().filter(|(_, _, is_public)| *is_public) {
            let _ = orders.send(Order::Text(text.clone()));
        }
    }
}

impl Site for Server {
    fn answer(&self, request: &Request) -> Answer {
        let state = self.state.lock();
        let known = request.header("authorization") == Some(&format!("Bearer {TOKEN}"));
        let path: Vec<&str> = request.path.split('/').skip(1).collect();
        match path[..] {
            ["api", "v2", "instance"] => {
                let access = if state.is_closed { "authenticated" } else { "public" };
                Answer::ok(&json!({
                    "domain": self.address.to_string(),
                    "configuration": {
                        "urls": {"streaming": format!("ws://{}", self.address)},
                        "timelines_access": {"live_feeds": {"local": access, "remote": access}},
                    },
                }))
            }
            ["api", "v1", "streaming"] => {
                if known {
                    Answer::Upgrade
                } else {
                    Answer::status(401)
                }
            }
            ["api", "v1", "timelines", "public"] => {
                if state.is_closed && !known {
                    return Answer::status(422);
                }
                let key = |id: &str| (id.len(), id.to_owned());
                let min = request.query("min_id").next().map(key);
                let newer = state.statuses.iter().filter(|status| {
                    min.as_ref().is_none_or(|min| key(status["id"].as_str().unwrap()) > *min)
                });
                let mut page: Vec<&Value> = newer.collect();
                if min.is_some() {
                    page.truncate(40);
                }
                page.reverse();
                page.truncate(40);
                Answer::ok(&json!(page))
            }
            ["api", "v1", "statuses"] => {
                let asked: Vec<&str> =
                    request.query("id[]").chain(request.query("id%5B%5D")).collect();
                let is_asked =
                    |status: &&Value| asked.iter().any(|id| status["id"].as_str() == Some(id));
                Answer::ok(&json!(state.statuses.iter().filter(is_asked).collect::<Vec<_>>()))
            }
            ["api", "v1", "statuses", id] => {
                let found = state.statuses.iter().find(|status| status["id"] == id);
                found.map_or_else(|| Answer::status(404), Answer::ok)
            }
            _ => Answer::status(404),
        }
    }

    fn converse(self: Arc<Self>, socket: Socket) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (orders, ordered) = mpsc::unbounded_channel();
            let id = {
                let mut state = self.state.lock();
                state.accepted += 1;
                let id = state.accepted;
                state.lines.push((id, orders, false));
                id
            };
            let hear = |text: &str| {
                let request: Value = serde_json::from_str(text).unwrap();
                if request["type"] == "subscribe" && request["stream"] == "public" {
                    let mut state = self.state.lock();
                    let line = state.lines.iter_mut().find(|(line, _, _)| *line == id);
                    if let Some((_, _, is_public)) = line {
                        *is_public = true;
                    }
                }
            };
            site::follow(socket, ordered, hear).await;
            self.state.lock().lines.retain(|(line, _, _)| *line != id);
        })
    }
}
