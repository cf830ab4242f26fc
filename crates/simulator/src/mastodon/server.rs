//! A running Mastodon server that a test controls.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{instance::Mastodon, router::router};
use crate::{faults::Switch, host::Host, serve::serve, timeline::Change};

/// The token that the server accepts.
const TOKEN: &str = "a-token-for-tests";

/// A running server on which only its script posts: instance, public timeline, statuses and
/// streaming on one port. The server stops when this is dropped.
pub struct MastodonServer {
    address: SocketAddr,
    mastodon: Arc<Mastodon>,
    _shutdown: DropGuard,
}

impl MastodonServer {
    /// Starts a server without posts on a free loopback port.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tasks = TaskTracker::new();
        let shutdown = CancellationToken::new();
        let host = Host::new(1, Switch::new(&[]), tasks.clone(), shutdown.clone());
        let mastodon = Arc::new(Mastodon::scripted(TOKEN, address, Arc::new(host)));
        serve(listener, router(&mastodon), &tasks, &shutdown);
        Ok(Self { address, mastodon, _shutdown: shutdown.drop_guard() })
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the name of the server in topics and tokens.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the token as Headwater's configuration takes it.
    pub fn token(&self) -> String {
        format!("{}={TOKEN}", self.host())
    }

    /// Returns whether a client streams the public timeline.
    pub fn is_streamed(&self) -> bool {
        self.mastodon.host.stats.is_subscribed("public")
    }

    /// Creates a status by `ana` in which the members of `changes` replace others. It is not yet
    /// published.
    pub fn status(&self, changes: &Value) -> Value {
        let now = Timestamp::now();
        let id = self.mastodon.timeline().next_id(now);
        let host = self.host();
        let mut status = json!({
            "id": id.to_string(),
            "uri": format!("http://{host}/users/ana/statuses/{id}"),
            "url": format!("http://{host}/@ana/{id}"),
            "created_at": now.to_string(),
            "edited_at": null,
            "visibility": "public",
            "language": "en",
            "content": "<p>Hello</p>",
            "spoiler_text": "",
            "sensitive": false,
            "account": {
                "id": "1", "acct": "ana", "username": "ana", "display_name": "Ana",
                "url": format!("http://{host}/@ana"), "note": "", "fields": [],
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
        let mut timeline = self.mastodon.timeline();
        let post = timeline.put(status.clone());
        self.mastodon.publish(Change::Posted(post));
    }

    /// Replaces a published status by its edited version.
    pub fn edit(&self, status: &Value) {
        let mut timeline = self.mastodon.timeline();
        let post = timeline.put(status.clone());
        self.mastodon.publish(Change::Edited(post));
    }

    /// Deletes a published status.
    pub fn delete(&self, status: &Value) {
        let mut timeline = self.mastodon.timeline();
        if let Some(post) = timeline.remove(status) {
            self.mastodon.publish(Change::Deleted(post));
        }
    }

    /// Cuts all streams without a close frame.
    pub fn drop_connections(&self) {
        self.mastodon.host.drop_connections();
    }

    /// Shows the public timeline only to clients with a token from now on.
    pub fn require_token(&self) {
        self.mastodon.require_token();
    }

    /// Returns a time that is later than a status, for the edit of it.
    ///
    /// # Panics
    ///
    /// When the status has no valid time.
    pub fn later(status: &Value) -> String {
        let at = status["created_at"].as_str().expect("a status has a time");
        let at: Timestamp = at.parse().expect("a time");
        (at + Duration::from_mins(1)).to_string()
    }
}
