//! The upstream's end of a WebSocket. It drops, doubles, reorders and adds messages.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    time::{self, Instant, Interval},
};
use tokio_tungstenite::tungstenite::Message;

use super::{Upstream, network::dropped_at};

/// Messages that no upstream should send.
const GARBAGE: [&str; 6] = [
    "",
    "null",
    "{\"type\":",
    "{\"type\":\"brand_new\",\"product_id\":17}",
    "{\"stream\":[\"public\"],\"event\":\"update\",\"payload\":\"{oops\"}",
    "{\"stream\":[\"public\"],\"event\":\"brand.new\",\"payload\":\"{}\"}",
];

/// What happens on a connection.
pub(super) enum Happening {
    /// The client sent a request.
    Request(Value),
    /// The upstream may have new events.
    Moved,
    /// A second has passed.
    Second,
}

pub(super) struct Connection {
    pub(super) upstream: Upstream,
    /// The name of the client.
    client: String,
    moved: watch::Receiver<()>,
    is_silent: watch::Receiver<bool>,
    seconds: Interval,
    dropped_at: Option<Instant>,
    from_client: mpsc::UnboundedReceiver<Message>,
    to_client: mpsc::UnboundedSender<Message>,
    /// A message that is sent after the next one.
    held: Option<Message>,
}

impl Connection {
    pub(super) fn new(
        upstream: Upstream,
        client: &str,
        from_client: mpsc::UnboundedReceiver<Message>,
        to_client: mpsc::UnboundedSender<Message>,
    ) -> Self {
        let dropped_at = dropped_at(*upstream.faults.borrow());
        Self {
            moved: upstream.moved.subscribe(),
            is_silent: upstream.is_silent.subscribe(),
            seconds: time::interval(Duration::from_secs(1)),
            dropped_at,
            upstream,
            client: client.to_owned(),
            from_client,
            to_client,
            held: None,
        }
    }

    /// Waits for what happens next. Returns `None` when the connection has ended.
    pub(super) async fn next(&mut self) -> Option<Happening> {
        loop {
            self.is_silent.wait_for(|is_silent| !is_silent).await.ok()?;
            let dropped_at = self.dropped_at;
            let dropped = async {
                match dropped_at {
                    Some(at) => time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = dropped => {
                    self.upstream.trace.count("upstreams: dropped connections");
                    return None;
                }
                message = self.from_client.recv() => match message? {
                    Message::Text(text) => {
                        return Some(Happening::Request(serde_json::from_str(&text).unwrap()));
                    }
                    Message::Ping(payload) => {
                        let _ = self.to_client.send(Message::Pong(payload));
                    }
                    _ => {}
                },
                _ = self.seconds.tick() => {
                    self.release();
                    return Some(Happening::Second);
                }
                moved = self.moved.changed() => {
                    moved.ok()?;
                    return Some(Happening::Moved);
                }
            }
        }
    }

    /// Sends a message that is neither doubled nor reordered.
    pub(super) fn answer(&self, message: &Value) {
        self.put(Message::text(message.to_string()));
    }

    /// Sends an event.
    pub(super) fn send(&mut self, event: &Value) {
        let faults = *self.upstream.faults.borrow();
        let drawn = |share: f64, name: &str| {
            let is_drawn = fastrand::f64() < share;
            if is_drawn {
                self.upstream.trace.count(name);
            }
            is_drawn
        };
        if drawn(faults.garbage, "upstreams: invalid messages") {
            let garbage = fastrand::choice(GARBAGE).unwrap_or_default();
            self.put(Message::text(garbage));
        }
        let message = Message::text(event.to_string());
        if drawn(faults.doubled, "upstreams: doubled messages") {
            self.put(message.clone());
        }
        if self.held.is_none() && drawn(faults.reordered, "upstreams: reordered messages") {
            self.held = Some(message);
            return;
        }
        self.put(message);
        self.release();
    }

    fn put(&self, message: Message) {
        let text = message.to_text().unwrap_or_default().as_bytes();
        self.upstream.trace.record(&format!("to {}", self.client), text);
        // The client may be gone.
        let _ = self.to_client.send(message);
    }

    /// Draws whether an event is not sent.
    pub(super) fn skips(&self) -> bool {
        let skips = fastrand::f64() < self.upstream.faults.borrow().skipped;
        if skips {
            self.upstream.trace.count("upstreams: skipped trades");
        }
        skips
    }

    fn release(&mut self) {
        if let Some(message) = self.held.take() {
            self.put(message);
        }
    }
}
