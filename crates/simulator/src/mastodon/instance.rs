//! The state of the Mastodon server: its timeline, and the events that its clients receive.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::http::{HeaderMap, header};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::broadcast,
    time::{self, Instant},
};

use super::query::Query;
use crate::{
    faults::Fault,
    host::Host,
    session::{QUEUE, Timing},
    timeline::{Change, DOMAIN, Timeline, Toot},
};

/// How far the server may fall behind the clock. Changes that are due for longer are skipped.
const LARGEST_LAG: Duration = Duration::from_secs(1);
/// The most changes that are made before clients are served.
const CHANGES_AT_ONCE: usize = 200;

/// A change of a post in the format of the stream.
#[derive(Clone, Debug)]
pub(super) struct Event {
    pub(super) name: &'static str,
    pub(super) post: Arc<Toot>,
    /// The payload as a JSON string, as an envelope contains it.
    pub(super) payload: Arc<str>,
    /// Whether the fault `skip-trades` omits this event.
    pub(super) skippable: bool,
}

impl Event {
    fn new(change: Change) -> Self {
        let (name, post) = match change {
            Change::Posted(post) => ("update", post),
            Change::Edited(post) => ("status.update", post),
            Change::Deleted(post) => ("delete", post),
        };
        let skippable = name == "update" && post.id % 4 == 0;
        let mut event = Self { name, post, payload: Arc::default(), skippable };
        event.payload = serde_json::Value::from(event.data()).to_string().into();
        event
    }

    /// Returns the payload: a status, or the id of a deleted one.
    pub(super) fn data(&self) -> String {
        match self.name {
            "delete" => self.post.id.to_string(),
            _ => self.post.text.clone(),
        }
    }
}

/// The error for a missing or wrong token, with the text of the real server.
pub(super) struct InvalidToken(pub(super) &'static str);

/// The simulated server.
pub(crate) struct Mastodon {
    pub(super) timeline: Mutex<Timeline>,
    pub(super) events: broadcast::Sender<Event>,
    pub(super) host: Arc<Host>,
    pub(super) timing: Timing,
    pub(super) token: String,
    /// The domain of the instance.
    pub(super) domain: String,
    pub(super) streaming_url: String,
    /// Whether the public timeline requires a token.
    pub(super) requires_token: AtomicBool,
}

impl Mastodon {
    /// Creates a server with generated posts.
    pub(crate) fn generated(
        seed: u64,
        rate: f64,
        token: String,
        address: SocketAddr,
        timing: Timing,
        host: Arc<Host>,
    ) -> Self {
        Self {
            timeline: Mutex::new(Timeline::new(seed, rate, Timestamp::now())),
            events: broadcast::Sender::new(QUEUE),
            host,
            timing,
            token,
            domain: DOMAIN.to_owned(),
            streaming_url: format!("ws://{address}"),
            requires_token: AtomicBool::new(false),
        }
    }

    /// Creates a server without posts, on which only a test posts.
    pub(crate) fn scripted(token: &str, address: SocketAddr, host: Arc<Host>) -> Self {
        Self {
            timeline: Mutex::new(Timeline::empty()),
            events: broadcast::Sender::new(QUEUE),
            host,
            timing: Timing::default(),
            token: token.to_owned(),
            domain: address.to_string(),
            streaming_url: format!("ws://{address}"),
            requires_token: AtomicBool::new(false),
        }
    }

    /// Streams a change.
    pub(super) fn publish(&self, change: Change) {
        // Sending fails if there are no clients.
        let _ = self.events.send(Event::new(change));
    }

    pub(super) fn require_token(&self) {
        self.requires_token.store(true, Ordering::Relaxed);
    }

    pub(super) fn requires_token(&self) -> bool {
        self.requires_token.load(Ordering::Relaxed)
    }

    /// Posts, edits and deletes until shutdown, with or without clients.
    pub(crate) async fn drive(self: Arc<Self>) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = self.host.shutdown.cancelled() => return,
                () = time::sleep_until(due) => due = self.advance(due),
            }
        }
    }

    /// Makes every change that is due. Returns when the next one is due.
    fn advance(&self, due: Instant) -> Instant {
        let mut timeline = self.timeline();
        let mut due = due.max(Instant::now().checked_sub(LARGEST_LAG).unwrap_or(due));
        for _ in 0..CHANGES_AT_ONCE {
            if due > Instant::now() {
                break;
            }
            let (change, wait) = timeline.tick(Timestamp::now());
            due += wait;
            if self.events.receiver_count() > 0 {
                self.publish(change);
            }
        }
        due
    }

    /// Checks the token in a header or in the query.
    pub(super) fn authorize(&self, headers: &HeaderMap, query: &Query) -> Result<(), InvalidToken> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer
            .map(|value| value.strip_prefix("Bearer ").unwrap_or(value))
            .or_else(|| query.get("access_token"))
            .or_else(|| headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok());
        match token {
            _ if self.host.switch.is_on(Fault::Refuse) => Err(InvalidToken("Invalid access token")),
            None => Err(InvalidToken("Missing access token")),
            Some(token) if token == self.token => Ok(()),
            Some(_) => Err(InvalidToken("Invalid access token")),
        }
    }

    pub(super) fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock()
    }
}
