//! One client of the Mastodon server's WebSocket: its streams and their messages.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{
    instance::{Event, Mastodon},
    query::Query,
    streams::Stream,
};
use crate::{
    faults::{Active, Fault},
    mangler::Frame,
    session::Conversation,
};

/// A client's streams, in the order of its requests.
pub(super) struct Subscriber {
    server: Arc<Mastodon>,
    streams: Vec<Stream>,
    generation: u64,
    request: Query,
}

impl Subscriber {
    /// Creates a client. The query of its request may name the first stream.
    pub(super) fn new(server: Arc<Mastodon>, request: Query) -> Self {
        let generation = server.host.stats.generation();
        Self { server, streams: Vec::new(), generation, request }
    }

    /// Adds a stream. Only an error has a response.
    fn subscribe(&mut self, name: &str, tag: Option<&str>) -> Vec<String> {
        match Stream::named(name, tag) {
            Err((error, status)) => vec![json!({"error": error, "status": status}).to_string()],
            Ok(stream) => {
                if !self.streams.contains(&stream) {
                    self.server.host.stats.subscribed(self.generation, &stream.name);
                    self.streams.push(stream);
                }
                Vec::new()
            }
        }
    }

    fn unsubscribe(&mut self, name: &str, tag: Option<&str>) -> Vec<String> {
        let Ok(stream) = Stream::named(name, tag) else {
            return vec![json!({"error": "Error unsubscribing from channel"}).to_string()];
        };
        if let Some(at) = self.streams.iter().position(|known| *known == stream) {
            self.streams.remove(at);
            self.server.host.stats.unsubscribed(self.generation, &stream.name);
        }
        Vec::new()
    }
}

impl Conversation for Subscriber {
    type Event = Event;

    const GARBAGE: &'static [&'static str] = &[
        "",
        "  \n",
        "null",
        "42",
        "hello",
        r#"{"stream":["public"],"payload":"{}"}"#,
        r#"{"stream":["public"],"event":"update"}"#,
        r#"{"stream":["public"],"event":"update","payload":null}"#,
        r#"{"stream":["public"],"event":"update","payload":"{oops"}"#,
        r#"{"stream":["public"],"event":"update","payload":"{\"content\":\"no id\"}"}"#,
        r#"{"stream":["public"],"event":"update","payload":{"id":"1"}}"#,
        r#"{"stream":["public"],"event":"status.update","payload":"{\"id\":17,\"content\":[],\"account\":\"nobody\"}"}"#,
        r#"{"stream":["public"],"event":"delete","payload":""}"#,
        r#"{"stream":["public"],"event":"brand.new","payload":"{}"}"#,
        r#"{"error":"An unexpected error occurred","status":500}"#,
    ];
    const TOO_SLOW: Option<&'static str> = None;
    const NO_BINARY: Option<&'static str> =
        Some("The mastodon streaming server does not support binary messages");

    fn greet(&mut self) -> Vec<String> {
        let request = std::mem::take(&mut self.request);
        let stream = request.get("stream");
        stream.map(|name| self.subscribe(name, request.get("tag"))).unwrap_or_default()
    }

    fn receive(&mut self, text: &str) -> Vec<String> {
        self.server.host.record(text);
        let Ok(command) = serde_json::from_str::<Value>(text) else {
            return Vec::new();
        };
        let stream = match &command["stream"] {
            Value::Array(names) => names.first().and_then(Value::as_str),
            other => other.as_str(),
        };
        let name = stream.unwrap_or_default();
        let tag = command["tag"].as_str();
        match command["type"].as_str() {
            Some("subscribe") => self.subscribe(name, tag),
            Some("unsubscribe") => self.unsubscribe(name, tag),
            _ => Vec::new(),
        }
    }

    fn deliver(&mut self, event: &Event, faults: Active) -> Vec<Frame> {
        if event.skippable && faults.has(Fault::SkipTrades) {
            return Vec::new();
        }
        let Event { name, payload, .. } = event;
        self.streams
            .iter()
            .filter(|stream| stream.contains(&event.post))
            .map(|Stream { label, .. }| {
                Frame::movable(format!(
                    r#"{{"stream":{label},"event":"{name}","payload":{payload}}}"#
                ))
            })
            .collect()
    }

    fn is_settled(&self) -> bool {
        true
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        for stream in &self.streams {
            self.server.host.stats.unsubscribed(self.generation, &stream.name);
        }
    }
}
