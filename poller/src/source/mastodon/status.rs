//! The messages of a server, parsed leniently: a missing key, a null or a wrong type counts as no value
//! and is never an error, because servers differ in the fields that they send.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::Value;

/// Longest status id that is accepted, in bytes. Known servers use up to 26.
const MAX_ID_BYTES: usize = 128;

/// A JSON value whose members are read leniently.
#[derive(Clone, Copy, Debug)]
pub(super) struct Loose<'a>(&'a Value);

impl<'a> Loose<'a> {
    /// Wraps a value.
    pub(super) fn new(value: &'a Value) -> Self {
        Self(value)
    }

    /// Returns the member `key`, or null.
    pub(super) fn get(self, key: &str) -> Self {
        Self(self.0.get(key).unwrap_or(&Value::Null))
    }

    /// Returns whether it is an object.
    pub(super) fn is_object(self) -> bool {
        self.0.is_object()
    }

    /// Returns the text `key`, if it is not empty.
    pub(super) fn text(self, key: &str) -> Option<&'a str> {
        self.0.get(key)?.as_str().filter(|text| !text.is_empty())
    }

    /// Returns the id `key`, which is an opaque text. Some software sends numbers.
    pub(super) fn id(self, key: &str) -> Option<Cow<'a, str>> {
        id(self.0.get(key)?)
    }

    /// Returns whether `key` is true.
    pub(super) fn flag(self, key: &str) -> bool {
        self.0.get(key).is_some_and(|value| value == true || value == "true")
    }

    /// Returns the number `key`, which some software sends as text, if it is not negative.
    pub(super) fn count(self, key: &str) -> Option<u64> {
        match self.0.get(key)? {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// Returns the time `key`, with or without a fraction. Without an offset, it is in UTC.
    pub(super) fn time(self, key: &str) -> Option<Timestamp> {
        let text = self.text(key)?;
        text.parse().or_else(|_| format!("{text}Z").parse()).ok()
    }

    /// Returns the elements of the list `key`.
    pub(super) fn list(self, key: &str) -> impl Iterator<Item = Loose<'a>> + use<'a> {
        self.0.get(key).and_then(Value::as_array).map_or(&[][..], Vec::as_slice).iter().map(Loose)
    }
}

fn id(value: &Value) -> Option<Cow<'_, str>> {
    let id = match value {
        Value::String(text) => Cow::Borrowed(text.trim().trim_matches('"')),
        Value::Number(number) => Cow::Owned(number.to_string()),
        _ => return None,
    };
    (!id.is_empty() && id.len() <= MAX_ID_BYTES && !id.contains(char::is_control)).then_some(id)
}

/// A status: a post as a server stores it.
#[derive(Clone, Debug, PartialEq)]
pub struct Status(Value);

impl Status {
    /// Wraps a status. Returns `None` if it has no valid id or URI.
    pub fn new(json: Value) -> Option<Self> {
        let status = Self(json);
        (status.fields().id("id").is_some() && status.checked_uri().is_some()).then_some(status)
    }

    /// Returns its members.
    pub(super) fn fields(&self) -> Loose<'_> {
        Loose(&self.0)
    }

    /// Returns its id on the server that sent it.
    pub fn id(&self) -> Cow<'_, str> {
        self.fields().id("id").unwrap_or_default()
    }

    /// Returns its `ActivityPub` URI, which is the same on every server.
    pub fn uri(&self) -> &str {
        self.checked_uri().unwrap_or_default()
    }

    /// Returns when it was written, according to its server.
    pub fn created_at(&self) -> Option<Timestamp> {
        self.fields().time("created_at")
    }

    /// Returns when it was last edited.
    pub fn edited_at(&self) -> Option<Timestamp> {
        self.fields().time("edited_at")
    }

    fn checked_uri(&self) -> Option<&str> {
        // The URI is part of a key in DynamoDB, whose length is limited.
        self.fields().text("uri").filter(|uri| uri.len() <= 1024 && !uri.contains(char::is_control))
    }
}

/// A change of a server's timeline.
#[derive(Clone, Debug, PartialEq)]
pub enum Update {
    /// A status exists: it was published, or the server returned it on request.
    Post(Status),
    /// A status of any age was changed. It may not have been published here.
    Edit(Status),
    /// The status with this id was deleted. It may not have been published here.
    Delete(String),
}

impl Update {
    /// Returns the server's id of the status.
    pub(super) fn id(&self) -> String {
        match self {
            Self::Post(status) | Self::Edit(status) => status.id().into_owned(),
            Self::Delete(id) => id.clone(),
        }
    }
}

/// A message of the streaming interface.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Envelope {
    /// A change of the timeline.
    Update(Update),
    /// The server rejected a request on the open connection, with an HTTP status if it sent one.
    Error(Option<u64>),
    /// An event that is not about public posts.
    Other,
    /// A message that does not match the interface.
    Malformed,
}

impl Envelope {
    /// Parses a text message.
    pub(super) fn parse(text: &str) -> Self {
        let Ok(json) = serde_json::from_str::<Value>(text) else { return Self::Malformed };
        let message = Loose(&json);
        let Some(event) = message.text("event") else {
            return match message.text("error") {
                Some(_) => Self::Error(message.count("status")),
                None => Self::Malformed,
            };
        };
        let update = match event {
            "update" => status(message.get("payload")).map(Update::Post),
            "status.update" => status(message.get("payload")).map(Update::Edit),
            // The payload is the bare id, not JSON.
            "delete" => message.id("payload").map(|id| Update::Delete(id.into_owned())),
            _ => return Self::Other,
        };
        update.map_or(Self::Malformed, Self::Update)
    }
}

/// Parses a payload, which is JSON in a string. Some software sends an object.
fn status(payload: Loose<'_>) -> Option<Status> {
    match payload.0 {
        Value::String(text) => Status::new(serde_json::from_str(text).ok()?),
        Value::Object(_) => Status::new(payload.0.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::source::mastodon::fixtures;

    #[test]
    fn values_of_other_types_are_converted_or_ignored() {
        let json = json!({
            "id": 117_659_978_849_024_469_u64, "uri": "https://a.example/1", "empty": "", "null": null,
            "yes": true, "count": "12", "negative": -1, "object": {"inner": 1}, "list": [{}, 1],
            "at": "2026-11-22T12:00:31Z", "bare": "2026-11-22T12:00:31.5", "never": "soon",
        });
        let fields = Loose(&json);
        assert_eq!(fields.id("id").as_deref(), Some("117659978849024469"));
        assert_eq!(fields.id("object"), None);
        assert_eq!(fields.text("empty"), None);
        assert_eq!(fields.text("null"), None);
        assert_eq!(fields.text("count"), Some("12"));
        assert!(fields.flag("yes") && !fields.flag("count") && !fields.flag("absent"));
        assert_eq!(fields.count("count"), Some(12));
        assert_eq!(fields.count("negative"), None);
        assert_eq!(fields.get("object").count("inner"), Some(1));
        assert_eq!(fields.get("list").get("inner").count("x"), None);
        assert_eq!(fields.list("list").count(), 2);
        assert_eq!(fields.list("object").count(), 0);
        assert_eq!(
            fields.time("at").map(|at| at.to_string()).as_deref(),
            Some("2026-11-22T12:00:31Z")
        );
        assert_eq!(
            fields.time("bare").map(|at| at.to_string()).as_deref(),
            Some("2026-11-22T12:00:31.5Z")
        );
        assert_eq!(fields.time("never"), None);
    }

    #[test]
    fn messages_are_read() {
        let payload = r#"{"id":"1","uri":"https://a.example/1"}"#;
        let status =
            || Status::new(serde_json::from_str(payload).expect("JSON")).expect("a status");
        let delete = |id: &str| Envelope::Update(Update::Delete(id.to_owned()));
        let cases = [
            (
                "update",
                json!({"stream":["public"],"event":"update","payload":payload}),
                Envelope::Update(Update::Post(status())),
            ),
            (
                "edit",
                json!({"event":"status.update","payload":payload}),
                Envelope::Update(Update::Edit(status())),
            ),
            (
                "nested",
                json!({"event":"update","payload":{"id":"1","uri":"https://a.example/1"}}),
                Envelope::Update(Update::Post(status())),
            ),
            (
                "delete",
                json!({"event":"delete","payload":"115500000000000777"}),
                delete("115500000000000777"),
            ),
            (
                "delete of a flake id",
                json!({"event":"delete","payload":"AzK3q9TmR0cV1xYw2E"}),
                delete("AzK3q9TmR0cV1xYw2E"),
            ),
            (
                "delete, number",
                json!({"event":"delete","payload":115_500_000_000_000_777_u64}),
                delete("115500000000000777"),
            ),
            (
                "delete, quoted twice",
                json!({"event":"delete","payload":"\"1155\""}),
                delete("1155"),
            ),
            ("delete, empty", json!({"event":"delete","payload":""}), Envelope::Malformed),
            ("no payload", json!({"event":"update"}), Envelope::Malformed),
            ("no URI", json!({"event":"update","payload":{"id":"1"}}), Envelope::Malformed),
            ("no event", json!({"payload":"{}"}), Envelope::Malformed),
            ("array", json!([]), Envelope::Malformed),
            ("unknown event", json!({"event":"some.future.event","payload":"{}"}), Envelope::Other),
            ("no payload needed", json!({"event":"filters_changed"}), Envelope::Other),
            (
                "error",
                json!({"error":"Unknown stream type","status":400}),
                Envelope::Error(Some(400)),
            ),
            ("error, no status", json!({"error":"Error unsubscribing"}), Envelope::Error(None)),
        ];
        for (name, json, expected) in cases {
            assert_eq!(Envelope::parse(&json.to_string()), expected, "case: {name}");
        }
        assert_eq!(Envelope::parse(""), Envelope::Malformed);
        assert_eq!(Envelope::parse(r#"{"event":"update""#), Envelope::Malformed);
    }

    #[test]
    fn recorded_messages_are_read() {
        for line in fixtures::lines("stream.jsonl", "ws-public-derived.jsonl") {
            let raw = line["raw"].as_str().expect("a frame");
            assert!(matches!(Envelope::parse(raw), Envelope::Update(_)), "frame: {raw:.200}");
        }
        for capture in fixtures::captures("malformed.jsonl", "ws-malformed-and-errors.jsonl") {
            let lines = fixtures::lines_of(&capture);
            let update = lines.iter().filter(|line| {
                matches!(
                    Envelope::parse(line["raw"].as_str().expect("a frame")),
                    Envelope::Update(_)
                )
            });
            let notes: Vec<&str> = update.filter_map(|line| line["note"].as_str()).collect();
            assert_eq!(
                notes,
                [
                    "delete payload numeric",
                    "delete payload JSON-quoted inside string",
                    "stream is a string not array (some servers)",
                    "stream missing (pre-3.3 servers)",
                    "duplicate keys",
                ],
                "{}",
                capture.name
            );
        }
    }

    proptest! {
        #[test]
        fn no_envelope_panics(
            text in "\\{(\"(event|payload|error|status|stream)\":(\"(update|delete|status.update|\\{.{0,9}\\}|[0-9]{0,20})\"|[0-9]{1,20}|\\{\"id\":1\\}|null|\\[\\]),?){0,4}\\}|\\PC{0,60}",
        ) {
            if let Envelope::Update(Update::Post(status) | Update::Edit(status)) = Envelope::parse(&text) {
                let _ = (status.uri().len(), status.created_at(), status.edited_at());
            }
        }
    }
}
