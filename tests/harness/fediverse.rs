//! The simulated Mastodon server, under the control of a test.

use std::ops::Deref;

use serde_json::Value;
use simulator::MastodonServer;

use crate::until;

/// A running server: instance, public timeline, statuses and streaming on one port.
pub struct Fediverse(MastodonServer);

impl Fediverse {
    /// Starts a server on which only the test posts.
    pub async fn start() -> Self {
        Self(MastodonServer::start().await.unwrap())
    }

    /// Waits until a client streams the public timeline.
    pub async fn streamed(&self) {
        until("a client streams the public timeline", async || self.is_streamed().then_some(()))
            .await;
    }

    /// Returns a time that is later than a status, for the edit of it.
    pub fn later(status: &Value) -> String {
        MastodonServer::later(status)
    }
}

impl Deref for Fediverse {
    type Target = MastodonServer;

    fn deref(&self) -> &MastodonServer {
        &self.0
    }
}
