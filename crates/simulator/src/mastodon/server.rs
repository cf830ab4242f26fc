//! A running Mastodon server that a test controls.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio_util::sync::DropGuard;

use super::{instance::Mastodon, router::router};
use crate::{loopback::LoopbackPort, timeline::Change, wait::until};

/// The token that the server accepts.
const TOKEN: &str = "a-token-for-tests";

/// A running server on which only the owner of this value posts. The instance, the public timeline, the
/// statuses and the streaming API are on one port. The server stops when this is dropped.
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
        let port = LoopbackPort::bind().await?;
        let address = port.address;
        let mastodon = Arc::new(Mastodon::scripted(TOKEN, address, Arc::clone(&port.host)));
        let shutdown = port.serve(router(&mastodon));
        Ok(Self { address, mastodon, _shutdown: shutdown })
    }

    /// Returns the base URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Returns the name of the server in topics and tokens.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// Returns the token in the format of Headwater's settings.
    pub fn token(&self) -> String {
        format!("{}={TOKEN}", self.host())
    }

    /// Waits until a client streams the public timeline.
    ///
    /// # Panics
    ///
    /// When no client does in time.
    pub async fn streamed(&self) {
        let stats = &self.mastodon.host.stats;
        until("a client streams the public timeline", || stats.is_subscribed("public")).await;
    }

    /// Creates a status by `ana`, with the members of `changes`. It is not published yet.
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

    /// Requires a token for the public timeline from now on.
    pub fn require_token(&self) {
        self.mastodon.require_token();
    }

    /// Returns a time that is later than a status, for an edit of it.
    ///
    /// # Panics
    ///
    /// When the status has no valid time.
    pub fn later(status: &Value) -> String {
        let text = status["created_at"].as_str().expect("a status has a time");
        let created_at: Timestamp = text.parse().expect("a valid time");
        (created_at + Duration::from_mins(1)).to_string()
    }
}
