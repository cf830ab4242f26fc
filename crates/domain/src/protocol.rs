//! The messages of the WebSocket protocol `headwater.v1`.

use std::{collections::BTreeMap, fmt};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{access::Limits, connection::ConnectionId, log_id::LogId, topic::Topic};

/// The name of the subprotocol in `Sec-WebSocket-Protocol`.
pub const SUBPROTOCOL: &str = "headwater.v1";

/// Maximum length of the `id` of a request, in bytes.
pub const MAX_ID_BYTES: usize = 64;

/// Maximum number of topics in one `subscribe` or `unsubscribe`.
pub const MAX_TOPICS_PER_MESSAGE: usize = 100;

/// Maximum length of `log`, in bytes.
pub const MAX_LOG_BYTES: usize = 64;

/// Maximum number of events that `last` can request.
pub const MAX_LAST: u64 = 1_000;

/// A message from a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The `id` that the response repeats.
    pub id: Option<String>,
    /// What the client requests.
    pub action: Action,
}

/// An action that a client can request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Requests the principal and the id of the connection.
    Hello,
    /// Subscribes to topics.
    Subscribe {
        /// The topics, as spelled by the client.
        topics: Vec<String>,
        /// By topic, the number of the last event that the client has.
        since: BTreeMap<String, u64>,
        /// The id of the log that the numbers in `since` belong to.
        log: Option<String>,
        /// The number of newest events to send first, for topics without `since`.
        last: Option<u64>,
    },
    /// Unsubscribes from topics.
    Unsubscribe {
        /// The topics, as spelled by the client.
        topics: Vec<String>,
    },
    /// Requests the list of subscriptions.
    List,
    /// Requests past events.
    Replay {
        /// The topic, as spelled by the client.
        topic: String,
        /// The first number requested.
        from: u64,
        /// The last number requested.
        to: u64,
    },
    /// Checks that the server responds.
    Ping,
    /// Replaces the token by one that expires later.
    Authenticate {
        /// The token.
        token: Token,
    },
}

/// A token as sent by a client. Its debug output is redacted, so that no log has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(pub String);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// An error as it is reported to a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{message}")]
pub struct ErrorReply {
    /// The request's `id`, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// The kind of error.
    pub code: ErrorCode,
    /// A sentence for the developer of the client.
    pub message: String,
    /// The topic that caused the error, as spelled by the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
}

/// The kinds of errors that are reported to a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The message is not JSON, or a field is missing or has the wrong type.
    BadRequest,
    /// There is no such `action`.
    UnknownAction,
    /// There is no such topic.
    UnknownTopic,
    /// The rules do not permit the action.
    Forbidden,
    /// The token is invalid.
    Unauthorized,
    /// The token has expired, and the connection is closed.
    Expired,
    /// The connection would exceed its limit of topics.
    TooManyTopics,
    /// The connection exceeded its limit of messages a second.
    RateLimited,
    /// The message exceeds the size limit.
    TooLarge,
    /// A service that the response depends on is unavailable; the client can retry.
    Unavailable,
    /// An internal error of Headwater.
    Internal,
}

impl Request {
    /// Parses a message.
    ///
    /// Unknown fields are ignored.
    ///
    /// # Errors
    ///
    /// [`ErrorReply`] with a code and a sentence, and with the request's `id` if it could be read.
    pub fn parse(text: &str) -> Result<Self, ErrorReply> {
        let error = |id: &Option<String>, code, message: String| ErrorReply {
            id: id.clone(),
            code,
            message,
            topic: None,
        };
        let fields: Map<String, Value> = serde_json::from_str(text).map_err(|_| {
            error(&None, ErrorCode::BadRequest, "the message is not a JSON object".into())
        })?;
        let id = match fields.get("id") {
            None | Some(Value::Null) => None,
            Some(Value::String(id)) if id.len() <= MAX_ID_BYTES => Some(id.clone()),
            Some(_) => {
                let message = format!("id must be a string of at most {MAX_ID_BYTES} bytes");
                return Err(error(&None, ErrorCode::BadRequest, message));
            }
        };
        let bad = |message: String| error(&id, ErrorCode::BadRequest, message);
        let action = match fields.get("action") {
            Some(Value::String(action)) => action.as_str(),
            _ => return Err(bad("action must be a string".into())),
        };
        let action = match action {
            "hello" => Action::Hello,
            "subscribe" => Action::Subscribe {
                topics: topics(&fields).map_err(bad)?,
                since: since(&fields).map_err(bad)?,
                log: log(&fields).map_err(bad)?,
                last: last(&fields).map_err(bad)?,
            },
            "unsubscribe" => Action::Unsubscribe { topics: topics(&fields).map_err(bad)? },
            "list" => Action::List,
            "replay" => {
                let Some(Value::String(topic)) = fields.get("topic") else {
                    return Err(bad("topic must be a string".into()));
                };
                let from = number(&fields, "from").map_err(bad)?;
                let to = number(&fields, "to").map_err(bad)?;
                if from == 0 || to < from {
                    return Err(bad("from must be at least 1, and not greater than to".into()));
                }
                Action::Replay { topic: topic.clone(), from, to }
            }
            "ping" => Action::Ping,
            "authenticate" => match fields.get("token") {
                Some(Value::String(token)) => Action::Authenticate { token: Token(token.clone()) },
                _ => return Err(bad("token must be a string".into())),
            },
            other => {
                let name: String = other.chars().take(32).collect();
                let message = format!(
                    "there is no action {name:?}; the actions are hello, subscribe, unsubscribe, list, \
                     replay, ping and authenticate"
                );
                return Err(error(&id, ErrorCode::UnknownAction, message));
            }
        };
        Ok(Self { id, action })
    }
}

fn topics(fields: &Map<String, Value>) -> Result<Vec<String>, String> {
    let Some(Value::Array(topics)) = fields.get("topics") else {
        return Err("topics must be a list of strings".into());
    };
    if topics.is_empty() || topics.len() > MAX_TOPICS_PER_MESSAGE {
        return Err(format!("topics must name 1 to {MAX_TOPICS_PER_MESSAGE} topics"));
    }
    let texts = topics.iter().map(|topic| topic.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().ok_or_else(|| "topics must be a list of strings".into())
}

fn since(fields: &Map<String, Value>) -> Result<BTreeMap<String, u64>, String> {
    match fields.get("since") {
        None | Some(Value::Null) => Ok(BTreeMap::new()),
        Some(Value::Object(since)) => since
            .iter()
            .map(|(topic, seq)| seq.as_u64().map(|seq| (topic.clone(), seq)))
            .collect::<Option<_>>()
            .ok_or_else(|| "since must map topics to whole numbers".into()),
        Some(_) => Err("since must map topics to whole numbers".into()),
    }
}

fn log(fields: &Map<String, Value>) -> Result<Option<String>, String> {
    match fields.get("log") {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(log)) if log.len() <= MAX_LOG_BYTES => Ok(Some(log.clone())),
        Some(_) => Err(format!("log must be a string of at most {MAX_LOG_BYTES} bytes")),
    }
}

fn last(fields: &Map<String, Value>) -> Result<Option<u64>, String> {
    match fields.get("last") {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(last) if last <= MAX_LAST => Ok(Some(last)),
            _ => Err(format!("last must be a whole number from 0 to {MAX_LAST}")),
        },
    }
}

fn number(fields: &Map<String, Value>, name: &str) -> Result<u64, String> {
    let number = fields.get(name).and_then(Value::as_u64);
    number.ok_or_else(|| format!("{name} must be a whole number"))
}

/// A message to a client. Messages of type `events` are made by [`crate::frame::messages`].
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase", rename_all_fields = "camelCase")]
pub enum Reply {
    /// The response to `hello`.
    Welcome {
        /// The request's `id`.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The id of the log, which all numbers belong to.
        log: LogId,
        /// The gateway's id of the connection.
        connection_id: ConnectionId,
        /// Proves to the REST interface that the caller owns the connection.
        connection_token: String,
        /// The subject of the principal.
        principal: String,
        /// The principal's class.
        class: String,
        /// The limits of the connection.
        limits: Limits,
        /// When the gateway closes the connection.
        expires_at: Timestamp,
        /// When the token expires. The connection is closed then, unless the client sends another token.
        #[serde(skip_serializing_if = "Option::is_none")]
        token_expires_at: Option<Timestamp>,
    },
    /// The response to `authenticate`.
    Authenticated {
        /// The request's `id`.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The subject of the principal.
        principal: String,
        /// The principal's class, from this message on.
        class: String,
        /// The limits of the connection, from this message on.
        limits: Limits,
        /// When the token expires.
        token_expires_at: Timestamp,
    },
    /// The response to `subscribe`, with the topics that were not rejected.
    Subscribed {
        /// The request's `id`.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The id of the log, which all numbers belong to.
        log: LogId,
        /// The subscribed topics and their newest numbers.
        topics: Vec<Subscribed>,
    },
    /// The response to `unsubscribe`.
    Unsubscribed {
        /// The request's `id`.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The topics that are no longer subscribed to.
        topics: Vec<Topic>,
    },
    /// The response to `list`.
    Subscriptions {
        /// The request's `id`.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The subscribed topics.
        topics: Vec<Topic>,
        /// The newest number of each of them; 0 if it has no events yet.
        heads: BTreeMap<Topic, u64>,
    },
    /// Reports events that will not be sent.
    Gap {
        /// Their topic.
        topic: Topic,
        /// The first number that is missing.
        from: u64,
        /// The last number that is missing.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// The response to `ping`.
    Pong {
        /// The request's `id`.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// The server's time.
        at: Timestamp,
        /// The newest number of each subscribed topic; 0 if it has no events yet. Absent while the
        /// database is unavailable.
        #[serde(skip_serializing_if = "Option::is_none")]
        heads: Option<BTreeMap<Topic, u64>>,
    },
    /// Reports an error.
    Error(ErrorReply),
}

/// A topic in a `subscribed` message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Subscribed {
    /// The topic in canonical spelling.
    pub topic: Topic,
    /// The topic's newest number at that moment; 0 if it has no events yet.
    pub seq: u64,
    /// Only with `since`: whether all events after it will follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovered: Option<bool>,
}

/// Why events are missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GapReason {
    /// They are not in the log: they have expired or were never written.
    Expired,
    /// The client was too slow, so that they were dropped. The log may have them.
    Lagging,
    /// Headwater missed them, or the log was too slow, so that they were dropped. No replay brings them.
    Lost,
    /// The number in `since` does not belong to this log. The subscription starts after the last
    /// number of the gap.
    Reset,
}

impl Reply {
    /// Returns the wire form.
    pub fn to_json(&self) -> Bytes {
        serde_json::to_vec(self).expect("a reply is JSON").into()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_debug_output_of_a_token_does_not_show_it() {
        let request = Request::parse(r#"{"action":"authenticate","token":"hush"}"#);
        let request = request.expect("a request");
        assert_eq!(request.action, Action::Authenticate { token: Token("hush".to_owned()) });
        assert!(!format!("{request:?}").contains("hush"), "{request:?}");
        assert!(format!("{request:?}").contains("Token("), "{request:?}");
    }

    #[test]
    fn a_message_names_up_to_the_permitted_number_of_topics() {
        for (count, is_valid) in [
            (0, false),
            (1, true),
            (MAX_TOPICS_PER_MESSAGE, true),
            (MAX_TOPICS_PER_MESSAGE + 1, false),
        ] {
            let text = serde_json::json!({"action": "subscribe", "topics": vec!["a"; count]});
            assert_eq!(Request::parse(&text.to_string()).is_ok(), is_valid, "{count} topics");
        }
    }

    #[test]
    fn a_replay_can_be_of_one_event() {
        for (from, to, is_valid) in [(0, 1, false), (1, 1, true), (2, 1, false), (1, 2, true)] {
            let text = format!(r#"{{"action":"replay","topic":"a","from":{from},"to":{to}}}"#);
            assert_eq!(Request::parse(&text).is_ok(), is_valid, "{from} to {to}");
        }
    }

    #[test]
    fn parses_what_clients_send() {
        let topics = vec!["a".to_owned()];
        let since = BTreeMap::from([("a".to_owned(), 7)]);
        let cases = [
            (r#"{"action":"hello","id":"1"}"#, Some("1"), Action::Hello),
            (r#"{"action":"ping","id":null,"extra":[]}"#, None, Action::Ping),
            (r#"{"action":"list"}"#, None, Action::List),
            (
                r#"{"action":"subscribe","topics":["a"],"since":{"a":7},"last":10}"#,
                None,
                Action::Subscribe {
                    topics: topics.clone(),
                    since: since.clone(),
                    log: None,
                    last: Some(10),
                },
            ),
            (
                r#"{"action":"subscribe","topics":["a"],"since":{"a":7},"log":"x"}"#,
                None,
                Action::Subscribe {
                    topics: topics.clone(),
                    since,
                    log: Some("x".to_owned()),
                    last: None,
                },
            ),
            (
                r#"{"action":"subscribe","topics":["a"]}"#,
                None,
                Action::Subscribe {
                    topics: topics.clone(),
                    since: BTreeMap::new(),
                    log: None,
                    last: None,
                },
            ),
            (r#"{"action":"unsubscribe","topics":["a"]}"#, None, Action::Unsubscribe { topics }),
            (
                r#"{"action":"replay","id":"r","topic":"a","from":1,"to":2}"#,
                Some("r"),
                Action::Replay { topic: "a".to_owned(), from: 1, to: 2 },
            ),
        ];
        for (text, id, action) in cases {
            let expected = Request { id: id.map(str::to_owned), action };
            assert_eq!(Request::parse(text), Ok(expected), "case: {text}");
        }
    }

    #[test]
    fn invalid_messages_are_rejected_with_a_reason() {
        let long = format!(r#"{{"action":"ping","id":"{}"}}"#, "x".repeat(65));
        let long_log =
            format!(r#"{{"action":"subscribe","topics":["a"],"log":"{}"}}"#, "x".repeat(65));
        let many = format!(r#"{{"action":"subscribe","topics":{:?}}}"#, vec!["a"; 101]);
        let cases = [
            ("", None, ErrorCode::BadRequest),
            ("hello", None, ErrorCode::BadRequest),
            ("[1]", None, ErrorCode::BadRequest),
            (r#"{"id":"7"}"#, Some("7"), ErrorCode::BadRequest),
            (r#"{"id":"7","action":3}"#, Some("7"), ErrorCode::BadRequest),
            (r#"{"id":7,"action":"ping"}"#, None, ErrorCode::BadRequest),
            (long.as_str(), None, ErrorCode::BadRequest),
            (many.as_str(), None, ErrorCode::BadRequest),
            (long_log.as_str(), None, ErrorCode::BadRequest),
            (r#"{"action":"subscribe","topics":["a"],"log":7}"#, None, ErrorCode::BadRequest),
            (r#"{"id":"7","action":"dance"}"#, Some("7"), ErrorCode::UnknownAction),
            (r#"{"action":"subscribe"}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"subscribe","topics":[]}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"subscribe","topics":[1]}"#, None, ErrorCode::BadRequest),
            (
                r#"{"action":"subscribe","topics":["a"],"since":{"a":-1}}"#,
                None,
                ErrorCode::BadRequest,
            ),
            (r#"{"action":"subscribe","topics":["a"],"since":[]}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"subscribe","topics":["a"],"last":1001}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"replay","topic":"a","from":2,"to":1}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"replay","topic":"a","from":0,"to":1}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"replay","from":1,"to":1}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"authenticate"}"#, None, ErrorCode::BadRequest),
            (r#"{"action":"authenticate","token":["x"]}"#, None, ErrorCode::BadRequest),
        ];
        for (text, id, code) in cases {
            let error = Request::parse(text).expect_err(text);
            assert_eq!(error.id.as_deref(), id, "case: {text}");
            assert_eq!(error.code, code, "case: {text}");
            assert!(!error.message.is_empty(), "case: {text}");
        }
    }

    #[test]
    fn replies_have_the_documented_shape() {
        let topic = Topic::mastodon_public();
        let at: Timestamp = "2026-11-22T10:00:00.5Z".parse().expect("a time");
        let id = Some("1".to_owned());
        let log = LogId::from_random(0xab);
        let heads = BTreeMap::from([(topic.clone(), 5)]);
        let limits = Limits {
            connections: None,
            topics: 50,
            messages_per_second: 10,
            requests_per_second: None,
            history: None,
            history_bytes_per_second: None,
        };
        let replies = [
            Reply::Welcome {
                id: id.clone(),
                log: log.clone(),
                connection_id: ConnectionId::new("abc="),
                connection_token: "t".into(),
                principal: "p".into(),
                class: "c".into(),
                limits,
                expires_at: at,
                token_expires_at: None,
            },
            Reply::Subscribed {
                id: id.clone(),
                log,
                topics: vec![
                    Subscribed { topic: topic.clone(), seq: 5, recovered: Some(true) },
                    Subscribed { topic: topic.clone(), seq: 0, recovered: None },
                ],
            },
            Reply::Unsubscribed { id: id.clone(), topics: vec![topic.clone()] },
            Reply::Subscriptions { id: None, topics: vec![topic.clone()], heads: heads.clone() },
            Reply::Gap { topic: topic.clone(), from: 2, to: 3, reason: GapReason::Lagging },
            Reply::Gap { topic, from: 6, to: 9, reason: GapReason::Reset },
            Reply::Pong { id: None, at, heads: None },
            Reply::Pong { id: None, at, heads: Some(heads) },
            Reply::Authenticated {
                id: None,
                principal: "p".into(),
                class: "c".into(),
                limits,
                token_expires_at: at,
            },
            Reply::Error(ErrorReply {
                id,
                code: ErrorCode::TooManyTopics,
                message: "m".into(),
                topic: Some("t".into()),
            }),
        ];
        let lines: Vec<String> = replies
            .iter()
            .map(|reply| String::from_utf8(reply.to_json().to_vec()).expect("UTF-8"))
            .collect();
        insta::assert_snapshot!(lines.join("\n"), @r#"
        {"type":"welcome","id":"1","log":"000000000000000000000000000000ab","connectionId":"abc=","connectionToken":"t","principal":"p","class":"c","limits":{"topics":50,"messagesPerSecond":10},"expiresAt":"2026-11-22T10:00:00.5Z"}
        {"type":"subscribed","id":"1","log":"000000000000000000000000000000ab","topics":[{"topic":"mastodon/public","seq":5,"recovered":true},{"topic":"mastodon/public","seq":0}]}
        {"type":"unsubscribed","id":"1","topics":["mastodon/public"]}
        {"type":"subscriptions","topics":["mastodon/public"],"heads":{"mastodon/public":5}}
        {"type":"gap","topic":"mastodon/public","from":2,"to":3,"reason":"lagging"}
        {"type":"gap","topic":"mastodon/public","from":6,"to":9,"reason":"reset"}
        {"type":"pong","at":"2026-11-22T10:00:00.5Z"}
        {"type":"pong","at":"2026-11-22T10:00:00.5Z","heads":{"mastodon/public":5}}
        {"type":"authenticated","principal":"p","class":"c","limits":{"topics":50,"messagesPerSecond":10},"tokenExpiresAt":"2026-11-22T10:00:00.5Z"}
        {"type":"error","id":"1","code":"too_many_topics","message":"m","topic":"t"}
        "#);
    }

    #[test]
    fn the_debug_output_of_a_token_is_redacted() {
        let request = Request::parse(r#"{"action":"authenticate","token":"s3cret"}"#);
        assert!(!format!("{request:?}").contains("s3cret"));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,80}|[{}\\[\\]\":,a-z0-9]{0,60}") {
            let _ = Request::parse(&text);
        }
    }
}
