//! `headwater tail`: prints topics in a terminal, and reconnects and resumes by itself.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use domain::{backoff::Backoff, protocol::SUBPROTOCOL, topic::Topic};
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::TcpStream,
    time::{self, Instant},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        self, Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
    },
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// The interval between two pings. API Gateway closes a connection that is idle for 10 minutes.
const PING_INTERVAL: Duration = Duration::from_mins(5);

/// The most characters of a post's text that are printed.
const TEXT_CHARS: usize = 160;

/// The bounds of the delay between two connection attempts.
const SHORTEST_DELAY: Duration = Duration::from_millis(500);
const LONGEST_DELAY: Duration = Duration::from_secs(30);

/// Print the events of topics in the terminal.
///
/// Reconnects after an interruption, and resumes after the last event that was printed.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Subscribe to these topics, such as `coinbase/ticker/BTC-USD` or `mastodon/public`.
    #[arg(required = true, value_name = "TOPIC")]
    pub topics: Vec<Topic>,

    /// Connect to the WebSocket API at this address.
    #[arg(long, env = "HEADWATER_URL", default_value = "ws://127.0.0.1:8080/live")]
    pub url: Url,

    /// Authenticate with this token, as created by `headwater token`. By default, connect as
    /// `anonymous`.
    #[arg(long, env = "HEADWATER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// Print this many of the most recent events of each topic first, 0 to 1000.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 0,
        value_parser = clap::value_parser!(u64).range(..=1_000)
    )]
    pub last: u64,

    /// Print each event as one line of JSON with the fields `topic`, `seq`, `at` and `event`.
    #[arg(long)]
    pub json: bool,
}

/// A message of the server, as far as this program reads it.
enum ServerMessage {
    Subscribed(Vec<TopicStart>),
    Events(Vec<Frame>),
    Gap(Gap),
    Error(ErrorMessage),
}

#[derive(Deserialize)]
struct MessageType<'a> {
    #[serde(rename = "type", borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Subscribed {
    topics: Vec<TopicStart>,
}

#[derive(Deserialize)]
struct Events {
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Gap {
    topic: Topic,
    from: u64,
    to: u64,
    reason: String,
}

#[derive(Deserialize)]
struct ErrorMessage {
    code: String,
    message: String,
    topic: Option<String>,
}

/// The sequence number after which a subscription starts.
#[derive(Deserialize)]
struct TopicStart {
    topic: Topic,
    seq: u64,
}

#[derive(Deserialize)]
struct Frame {
    topic: Topic,
    seq: u64,
    at: Timestamp,
    events: Vec<Box<RawValue>>,
}

impl ServerMessage {
    /// Parses a message. Returns `None` for a message of another type, or without one: API Gateway
    /// sends messages of its own.
    fn parse(text: &str) -> Option<Self> {
        // An enum with a tag would copy the events, and could not keep their text.
        let message: MessageType<'_> = serde_json::from_str(text).ok()?;
        match message.name.as_ref() {
            "subscribed" => {
                let message: Subscribed = serde_json::from_str(text).ok()?;
                Some(Self::Subscribed(message.topics))
            }
            "events" => {
                let message: Events = serde_json::from_str(text).ok()?;
                Some(Self::Events(message.frames))
            }
            "gap" => serde_json::from_str(text).ok().map(Self::Gap),
            "error" => serde_json::from_str(text).ok().map(Self::Error),
            _ => None,
        }
    }
}

/// Why a session ended, if the program should reconnect or stop.
enum SessionEnd {
    /// The connection was lost. Reconnect.
    Lost(String),
    /// The server rejected the connection or the topics. A retry would be rejected as well.
    Rejected(String),
    /// The standard output stream was closed.
    OutputClosed,
    /// The program was asked to stop.
    Shutdown,
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Prints events until `shutdown`.
///
/// # Errors
///
/// When the server rejects the topics or the token.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tail = Tail { options, printed: BTreeMap::new() };
    let mut backoff = Backoff::new(SHORTEST_DELAY, LONGEST_DELAY);
    loop {
        let before = tail.printed.clone();
        let end = tail.session(&shutdown).await;
        match end.unwrap_or_else(|error| SessionEnd::Lost(format!("{error:#}"))) {
            SessionEnd::Shutdown | SessionEnd::OutputClosed => return Ok(()),
            SessionEnd::Rejected(reason) => bail!(reason),
            SessionEnd::Lost(reason) => {
                if tail.printed != before {
                    backoff.reset();
                }
                let delay = backoff.next_delay(&mut rand::rng());
                note(&format!("{reason}; reconnecting in {:.1} s", delay.as_secs_f32()));
                if shutdown.run_until_cancelled(time::sleep(delay)).await.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

struct Tail {
    options: Options,
    /// The sequence number of the last printed event, by topic.
    printed: BTreeMap<Topic, u64>,
}

impl Tail {
    /// Connects, subscribes and prints until the connection ends.
    async fn session(&mut self, shutdown: &CancellationToken) -> anyhow::Result<SessionEnd> {
        let connected = shutdown.run_until_cancelled(self.connect()).await;
        let mut socket = match connected {
            None => return Ok(SessionEnd::Shutdown),
            Some(connected) => match connected? {
                Ok(socket) => socket,
                Err(end) => return Ok(end),
            },
        };
        let subscribe = json!({
            "action": "subscribe",
            "topics": self.options.topics,
            "since": self.printed,
            "last": self.options.last,
        });
        socket.send(Message::text(subscribe.to_string())).await?;
        let mut rejected_topics = 0;
        let mut next_ping = Instant::now() + PING_INTERVAL;
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => {
                    let _ = socket.close(None).await;
                    return Ok(SessionEnd::Shutdown);
                }
                () = time::sleep_until(next_ping) => {
                    next_ping = Instant::now() + PING_INTERVAL;
                    socket.send(Message::text(r#"{"action":"ping"}"#)).await?;
                    continue;
                }
                message = socket.next() => message,
            };
            let text = match message {
                Some(Ok(Message::Text(text))) => text,
                Some(Ok(Message::Close(Some(frame)))) => {
                    bail!("the server closed the connection: {} {}", frame.code, frame.reason)
                }
                Some(Ok(Message::Close(None))) | None => bail!("the server closed the connection"),
                Some(Ok(_)) => continue,
                Some(Err(error)) => return Err(error).context("the connection was lost"),
            };
            match ServerMessage::parse(&text) {
                None => {}
                Some(ServerMessage::Subscribed(topics)) => {
                    for TopicStart { topic, seq } in topics {
                        let printed = seq.saturating_sub(self.options.last);
                        self.printed.entry(topic).or_insert(printed);
                    }
                }
                Some(ServerMessage::Gap(Gap { topic, from, to, reason })) => {
                    note(&format!("{topic}: events {from} to {to} are missing ({reason})"));
                    let printed = self.printed.entry(topic).or_default();
                    *printed = (*printed).max(to);
                }
                Some(ServerMessage::Error(ErrorMessage { code, message, topic })) => {
                    note(&format!("{}: {message} ({code})", topic.as_deref().unwrap_or("error")));
                    rejected_topics += usize::from(topic.is_some());
                    if rejected_topics >= self.options.topics.len() {
                        let reason = "the server rejected all topics".to_owned();
                        return Ok(SessionEnd::Rejected(reason));
                    }
                }
                Some(ServerMessage::Events(frames)) => {
                    for frame in frames {
                        if let Some((from, to)) = self.missing_before(&frame) {
                            let topic = &frame.topic;
                            note(&format!("{topic}: events {from} to {to} are missing; replaying"));
                            let replay = json!({
                                "action": "replay", "topic": topic, "from": from, "to": to,
                            });
                            socket.send(Message::text(replay.to_string())).await?;
                        }
                        if self.print(frame).is_err() {
                            return Ok(SessionEnd::OutputClosed);
                        }
                    }
                }
            }
        }
    }

    /// Connects. The inner result is an error when the server rejected the connection.
    async fn connect(&self) -> anyhow::Result<Result<Socket, SessionEnd>> {
        let url = self.options.url.as_str();
        let mut request = url.into_client_request()?;
        let protocols = match &self.options.token {
            Some(token) => format!("{SUBPROTOCOL}, bearer.{token}"),
            None => SUBPROTOCOL.to_owned(),
        };
        let protocols = HeaderValue::from_str(&protocols)
            .context("the token contains characters that no token has")?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocols);
        match connect_async(request).await {
            Ok((socket, _)) => Ok(Ok(socket)),
            Err(tungstenite::Error::Http(response)) => {
                let status = response.status();
                let reason = format!("{url} rejected the connection: {status}");
                Ok(Err(match status {
                    StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::NOT_FOUND => {
                        SessionEnd::Rejected(reason)
                    }
                    _ => SessionEnd::Lost(reason),
                }))
            }
            Err(error) => Err(error).with_context(|| format!("cannot connect to {url}")),
        }
    }

    /// Returns the first and the last sequence number between the last printed event and `frame`.
    fn missing_before(&self, frame: &Frame) -> Option<(u64, u64)> {
        let printed = self.printed.get(&frame.topic).copied().unwrap_or(0);
        (printed > 0 && frame.seq > printed + 1).then(|| (printed + 1, frame.seq - 1))
    }

    /// Prints the events of a frame that have not been printed yet.
    fn print(&mut self, frame: Frame) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let printed = self.printed.entry(frame.topic.clone()).or_default();
        for (seq, event) in (frame.seq..).zip(frame.events) {
            if seq <= *printed {
                continue;
            }
            *printed = seq;
            if self.options.json {
                let at = format!("{:.6}", frame.at);
                let line = json!({ "topic": frame.topic, "seq": seq, "at": at, "event": event });
                writeln!(out, "{line}")?;
            } else {
                let time = frame.at.strftime("%H:%M:%S%.3f");
                writeln!(out, "{time} {} #{seq} {}", frame.topic, summary(event.get()))?;
            }
        }
        out.flush()
    }
}

/// Describes an event in one line.
fn summary(event: &str) -> String {
    let event: Value = serde_json::from_str(event).unwrap_or_default();
    let text = |name: &str| event.get(name).and_then(Value::as_str).unwrap_or_default();
    let short = |text: &str| {
        let line: String =
            text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_CHARS).collect();
        if text.chars().count() > TEXT_CHARS { line + "…" } else { line }
    };
    match text("type") {
        "ticker" => {
            format!("{} bid {} ask {}", text("price"), text("best_bid"), text("best_ask"))
        }
        kind @ ("match" | "last_match") => {
            format!("{kind} {} {} at {}", text("side"), text("size"), text("price"))
        }
        kind @ ("snapshot" | "l2update") => {
            let count = |name: &str| event.get(name).and_then(Value::as_array).map_or(0, Vec::len);
            let levels = count("changes") + count("asks") + count("bids");
            format!("{kind} of {levels} levels")
        }
        kind @ ("post" | "post.edited") => {
            let author =
                event.pointer("/author/handle").and_then(Value::as_str).unwrap_or("somebody");
            let text = short(text("text"));
            if kind == "post" {
                format!("@{author}: {text}")
            } else {
                format!("@{author} (edited): {text}")
            }
        }
        "post.deleted" => format!("deleted {}", text("id")),
        _ if event.get("state").is_some() => {
            format!("{} is {} {}", text("source"), text("state"), text("detail"))
        }
        _ => short(&event.to_string()),
    }
}

/// Prints a note to the standard error stream, beside the events.
fn note(text: &str) {
    // There is no other place to report that this failed.
    let _ = writeln!(io::stderr(), "headwater: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_text() {
        let text = r#"{"type":"events","frames":[{"topic":"mastodon/public","seq":7,"at":"2026-11-22T10:00:00Z","events":[{"b": 1, "a":2}]}]}"#;
        let Some(ServerMessage::Events(frames)) = ServerMessage::parse(text) else {
            panic!("events")
        };
        assert_eq!(frames[0].events[0].get(), r#"{"b": 1, "a":2}"#);
        assert!(
            ServerMessage::parse(r#"{"message":"Internal server error","connectionId":"x"}"#)
                .is_none()
        );
        assert!(ServerMessage::parse(r#"{"type":"new"}"#).is_none());
    }

    #[test]
    fn an_event_is_one_line() {
        let cases = [
            (
                r#"{"type":"ticker","price":"1","best_bid":"0.9","best_ask":"1.1"}"#,
                "1 bid 0.9 ask 1.1",
            ),
            (r#"{"type":"match","side":"buy","size":"2","price":"3"}"#, "match buy 2 at 3"),
            (r#"{"type":"l2update","changes":[["buy","1","2"]]}"#, "l2update of 1 levels"),
            (r#"{"type":"post","author":{"handle":"a@b.c"},"text":"x\ny"}"#, "@a@b.c: x y"),
            (r#"{"type":"post.deleted","id":"https://a/1"}"#, "deleted https://a/1"),
            (r#"{"source":"coinbase","state":"live","detail":""}"#, "coinbase is live "),
            (r#"{"type":"new"}"#, r#"{"type":"new"}"#),
            ("", "null"),
        ];
        for (event, expected) in cases {
            assert_eq!(summary(event), expected, "case: {event}");
        }
        let long = format!(r#"{{"type":"post","text":"{}"}}"#, "é".repeat(500));
        assert_eq!(summary(&long).chars().count(), "@somebody: ".len() + TEXT_CHARS + 1);
    }
}
