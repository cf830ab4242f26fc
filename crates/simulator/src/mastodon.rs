//! A Mastodon server on a loopback port: streaming and REST side by side.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{RawQuery, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use jiff::Timestamp;
use parking_lot::{Mutex, MutexGuard};
use tokio::{
    sync::broadcast,
    time::{self, Instant},
};

use self::{query::Query, subscriber::Subscriber};
use super::{
    faults::Fault,
    host::{self, Host},
    session::{QUEUE, Timing},
    timeline::{Change, DOMAIN, Timeline, Toot},
    upgrade::Upgrade,
};

mod query;
mod rest;
mod server;
mod streams;
mod subscriber;

pub use self::server::MastodonServer;

/// How far the server may fall behind the clock before it skips what it has missed.
const LARGEST_LAG: Duration = Duration::from_secs(1);
/// Changes made in one go, so that clients are not starved.
const CHANGES_AT_ONCE: usize = 200;

/// A change of a post, as it is streamed.
#[derive(Clone, Debug)]
struct Event {
    name: &'static str,
    post: Arc<Toot>,
    /// The payload as the JSON string that an envelope holds.
    payload: Arc<str>,
    /// Whether the fault `skip-trades` skips this one.
    skippable: bool,
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

    /// Returns the payload: a status, or the bare id of a deleted one.
    fn data(&self) -> String {
        match self.name {
            "delete" => self.post.id.to_string(),
            _ => self.post.text.clone(),
        }
    }
}

/// A missing or wrong token, with the text of the real server.
struct Denied(&'static str);

/// The simulated server.
pub(super) struct Mastodon {
    timeline: Mutex<Timeline>,
    events: broadcast::Sender<Event>,
    host: Arc<Host>,
    timing: Timing,
    token: String,
    /// The domain that the instance names.
    domain: String,
    streaming_url: String,
    /// Whether the public timeline is shown only to clients with a token.
    requires_token: AtomicBool,
}

impl Mastodon {
    /// Creates a server whose generator posts.
    pub(super) fn generated(
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

    /// Creates a server without posts, on which only a script posts.
    pub(super) fn scripted(token: &str, address: SocketAddr, host: Arc<Host>) -> Self {
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
    fn publish(&self, change: Change) {
        // Without clients there is no receiver.
        let _ = self.events.send(Event::new(change));
    }

    fn require_token(&self) {
        self.requires_token.store(true, Ordering::Relaxed);
    }

    fn requires_token(&self) -> bool {
        self.requires_token.load(Ordering::Relaxed)
    }

    /// Lets people post, whether anybody listens or not, until shutdown.
    pub(super) async fn drive(self: Arc<Self>) {
        let mut due = Instant::now();
        loop {
            tokio::select! {
                () = self.host.shutdown.cancelled() => return,
                () = time::sleep_until(due) => due = self.advance(due),
            }
        }
    }

    /// Makes every change whose time has come; returns when the next one comes.
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

    /// Checks a token given by header or query.
    fn authorize(&self, headers: &HeaderMap, query: &Query) -> Result<(), Denied> {
        let bearer = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let token = bearer
            .map(|value| value.strip_prefix("Bearer ").unwrap_or(value))
            .or_else(|| query.get("access_token"))
            .or_else(|| headers.get(header::SEC_WEBSOCKET_PROTOCOL)?.to_str().ok());
        match token {
            _ if self.host.switch.is_on(Fault::Refuse) => Err(Denied("Invalid access token")),
            None => Err(Denied("Missing access token")),
            Some(token) if token == self.token => Ok(()),
            Some(_) => Err(Denied("Invalid access token")),
        }
    }

    fn timeline(&self) -> MutexGuard<'_, Timeline> {
        self.timeline.lock()
    }
}

/// Returns everything the server serves.
pub(super) fn router(server: &Arc<Mastodon>) -> Router {
    let streaming =
        Router::new().route("/api/v1/streaming", get(connect)).with_state(Arc::clone(server));
    rest::router(Arc::clone(server))
        .merge(streaming)
        .merge(host::controls(Arc::clone(&server.host)))
}

async fn connect(
    State(server): State<Arc<Mastodon>>,
    RawQuery(raw): RawQuery,
    mut request: Request,
) -> Response {
    let query = Query::parse(raw.as_deref());
    if let Err(Denied(message)) = server.authorize(request.headers(), &query) {
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("text/plain")),
            (HeaderName::from_static("x-error-message"), HeaderValue::from_static(message)),
        ];
        return (StatusCode::UNAUTHORIZED, headers).into_response();
    }
    let offered = request.headers().get(header::SEC_WEBSOCKET_PROTOCOL).cloned();
    let Some((upgrade, mut answer)) = Upgrade::accept(&mut request) else {
        return StatusCode::UPGRADE_REQUIRED.into_response();
    };
    if let Some(protocol) = offered {
        answer.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    let events = server.events.subscribe();
    let (host, timing) = (Arc::clone(&server.host), server.timing);
    host.serve(upgrade, Subscriber::new(server, query), events, timing);
    answer
}
