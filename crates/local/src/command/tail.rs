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
use serde::Deserialize;
use serde_json::{Value, json};
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

use self::position::{Frame, Line, Position};

mod position;

/// The interval between two pings, with jitter. The responses have the newest numbers of the topics.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How often to check whether events are overdue.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The `id` of the replays.
const REPLAY: &str = "replay";

/// The id of the subscription.
const SUBSCRIBE: &str = "subscribe";

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
    Subscribed(Subscribed),
    Events(Vec<Frame>),
    Gap(Gap),
    Error(ErrorMessage),
    Pong(Pong),
}

#[derive(Deserialize)]
struct MessageType<'a> {
    #[serde(rename = "type", borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Subscribed {
    log: String,
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
struct Pong {
    /// Absent while the database of the server is unavailable.
    #[serde(default)]
    heads: BTreeMap<Topic, u64>,
}

#[derive(Deserialize)]
struct ErrorMessage {
    id: Option<String>,
    code: String,
    message: String,
    topic: Option<String>,
}

/// The newest sequence number of a topic when a subscription starts.
#[derive(Deserialize)]
struct TopicStart {
    topic: Topic,
    seq: u64,
}

impl ServerMessage {
    /// Parses a message. Returns `None` for a message of another type, or without one: API Gateway
    /// sends messages of its own.
    fn parse(text: &str) -> Option<Self> {
        // An enum with a tag would copy the events, and could not keep their text.
        let message: MessageType<'_> = serde_json::from_str(text).ok()?;
        match message.name.as_ref() {
            "subscribed" => serde_json::from_str(text).ok().map(Self::Subscribed),
            "events" => {
                let message: Events = serde_json::from_str(text).ok()?;
                Some(Self::Events(message.frames))
            }
            "gap" => serde_json::from_str(text).ok().map(Self::Gap),
            "pong" => serde_json::from_str(text).ok().map(Self::Pong),
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
    let mut tail = Tail { options, log: None, positions: BTreeMap::new() };
    let mut backoff = Backoff::new(SHORTEST_DELAY, LONGEST_DELAY);
    loop {
        let before = tail.since();
        let end = tail.session(&shutdown).await;
        match end.unwrap_or_else(|error| SessionEnd::Lost(format!("{error:#}"))) {
            SessionEnd::Shutdown | SessionEnd::OutputClosed => return Ok(()),
            SessionEnd::Rejected(reason) => bail!(reason),
            SessionEnd::Lost(reason) => {
                if tail.since() != before {
                    backoff.reset();
                }
                let delay = backoff.next_delay();
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
    /// The id of the log that the positions belong to.
    log: Option<String>,
    positions: BTreeMap<Topic, Position>,
}

impl Tail {
    /// Returns the sequence number of the last printed event, by topic.
    fn since(&self) -> BTreeMap<Topic, u64> {
        let positions = self.positions.iter();
        positions.filter_map(|(topic, it)| Some((topic.clone(), it.seq()?))).collect()
    }

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
        self.positions.values_mut().for_each(Position::disconnect);
        let mut subscribe = json!({
            "action": "subscribe",
            "id": SUBSCRIBE,
            "topics": self.options.topics,
            "since": self.since(),
            "last": self.options.last,
        });
        if let Some(log) = &self.log {
            subscribe["log"] = json!(log);
        }
        socket.send(Message::text(subscribe.to_string())).await?;
        let mut rejected_topics = 0;
        let mut is_subscribed = false;
        let mut next_ping = Instant::now() + jittered(PING_INTERVAL);
        let mut next_check = Instant::now() + CHECK_INTERVAL;
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => {
                    let _ = socket.close(None).await;
                    return Ok(SessionEnd::Shutdown);
                }
                () = time::sleep_until(next_ping) => {
                    next_ping = Instant::now() + jittered(PING_INTERVAL);
                    socket.send(Message::text(r#"{"action":"ping"}"#)).await?;
                    continue;
                }
                () = time::sleep_until(next_check) => {
                    next_check = Instant::now() + CHECK_INTERVAL;
                    if self.give_up().is_err() {
                        return Ok(SessionEnd::OutputClosed);
                    }
                    self.request_missing(&mut socket).await?;
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
            let Some(message) = ServerMessage::parse(&text) else { continue };
            match message {
                // The whole request failed. An error about too many messages names none.
                ServerMessage::Error(ErrorMessage { id, code, message, topic: None })
                    if id.as_deref() == Some(SUBSCRIBE) || (id.is_none() && !is_subscribed) =>
                {
                    bail!("{message} ({code})")
                }
                ServerMessage::Error(ErrorMessage { id, code, message, topic }) => {
                    note(&format!("{}: {message} ({code})", topic.as_deref().unwrap_or("error")));
                    let is_rejected = topic.is_some() && id.as_deref() != Some(REPLAY);
                    rejected_topics += usize::from(is_rejected);
                    if rejected_topics >= self.options.topics.len() {
                        let reason = "the server rejected all topics".to_owned();
                        return Ok(SessionEnd::Rejected(reason));
                    }
                }
                message => {
                    is_subscribed |= matches!(message, ServerMessage::Subscribed(_));
                    if self.take(message).is_err() {
                        return Ok(SessionEnd::OutputClosed);
                    }
                    self.request_missing(&mut socket).await?;
                }
            }
        }
    }

    /// Takes a message, and prints what it completes.
    fn take(&mut self, message: ServerMessage) -> io::Result<()> {
        let now = Instant::now();
        match message {
            ServerMessage::Subscribed(subscribed) => self.subscribed(subscribed),
            ServerMessage::Events(frames) => {
                for frame in frames {
                    let topic = frame.topic.clone();
                    let position = self.positions.entry(topic.clone()).or_default();
                    let lines = position.offer(frame, now);
                    self.print(&topic, lines)?;
                }
            }
            ServerMessage::Gap(Gap { topic, from, to, reason }) => {
                let position = self.positions.entry(topic.clone()).or_default();
                if reason == "reset" {
                    note(&format!(
                        "{topic}: the server has another log; continuing after event {to}"
                    ));
                    position.reset(to);
                } else {
                    let lines = position.skip(from, to, reason, now);
                    self.print(&topic, lines)?;
                }
            }
            ServerMessage::Pong(Pong { heads }) => {
                for (topic, head) in heads {
                    if let Some(position) = self.positions.get_mut(&topic) {
                        position.announce(head, now);
                    }
                }
            }
            ServerMessage::Error(_) => {}
        }
        Ok(())
    }

    /// Starts the topics, or continues where they were. Positions in another log are void.
    fn subscribed(&mut self, Subscribed { log, topics }: Subscribed) {
        let is_other = self.log.as_ref().is_some_and(|ours| *ours != log);
        self.log = Some(log);
        for TopicStart { topic, seq } in topics {
            let position = self.positions.entry(topic).or_default();
            // No number of the same log is above its newest number.
            if position.seq().is_some_and(|ours| is_other || ours > seq) {
                position.reset(seq);
            } else {
                position.start(seq, self.options.last);
            }
        }
    }

    /// Requests the events that are missing for too long.
    async fn request_missing(&mut self, socket: &mut Socket) -> anyhow::Result<()> {
        for (topic, position) in &mut self.positions {
            let Some(range) = position.request(Instant::now()) else { continue };
            let (from, to) = range.into_inner();
            note(&format!("{topic}: events {from} to {to} did not arrive; replaying"));
            let replay =
                json!({"action": "replay", "id": REPLAY, "topic": topic, "from": from, "to": to});
            socket.send(Message::text(replay.to_string())).await?;
        }
        Ok(())
    }

    /// Stops waiting for events that the server does not send.
    fn give_up(&mut self) -> io::Result<()> {
        let mut printable = Vec::new();
        for (topic, position) in &mut self.positions {
            printable.push((topic.clone(), position.give_up(Instant::now())));
        }
        for (topic, lines) in printable {
            self.print(&topic, lines)?;
        }
        Ok(())
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

    /// Prints lines of a topic.
    fn print(&self, topic: &Topic, lines: Vec<Line>) -> io::Result<()> {
        let mut out = io::stdout().lock();
        for line in lines {
            match line {
                Line::Missing { from, to, reason } => {
                    note(&format!("{topic}: events {from} to {to} are missing ({reason})"));
                }
                Line::Event { seq, at, event } if self.options.json => {
                    let at = format!("{at:.6}");
                    let line = json!({ "topic": topic, "seq": seq, "at": at, "event": event });
                    writeln!(out, "{line}")?;
                }
                Line::Event { seq, at, event } => {
                    let time = at.strftime("%H:%M:%S%.3f");
                    writeln!(out, "{time} {topic} #{seq} {}", summary(event.get()))?;
                }
            }
        }
        out.flush()
    }
}

/// Returns 75 to 125 % of a duration.
fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(rand::random_range(0.75..1.25))
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
    use tokio_tungstenite::{
        accept_hdr_async,
        tungstenite::{handshake::server::Response, http::HeaderValue},
    };

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

    #[tokio::test]
    #[expect(clippy::result_large_err, reason = "tungstenite defines the callback")]
    async fn a_subscription_that_fails_ends_the_session_so_that_it_is_repeated() {
        for id in [r#","id":"subscribe""#, ""] {
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let url = format!("ws://{}/live", listener.local_addr().expect("an address"));
            let serve = async {
                let (stream, _) = listener.accept().await.expect("a connection");
                let callback = |_: &_, mut response: Response| {
                    let protocol = HeaderValue::from_static(SUBPROTOCOL);
                    response.headers_mut().insert("sec-websocket-protocol", protocol);
                    Ok(response)
                };
                let mut socket = accept_hdr_async(stream, callback).await.expect("a WebSocket");
                let request = socket.next().await.expect("a request").expect("a message");
                assert!(request.to_text().expect("text").contains(r#""id":"subscribe""#));
                let error =
                    format!(r#"{{"type":"error"{id},"code":"rate_limited","message":"wait"}}"#);
                socket.send(Message::text(error)).await.expect("sent");
                std::future::pending::<()>().await;
            };
            let topics = vec![Topic::mastodon_public()];
            let url = url.parse().expect("a URL");
            let options = Options { topics, url, token: None, last: 5, json: false };
            let mut tail = Tail { options, log: None, positions: BTreeMap::new() };
            let shutdown = CancellationToken::new();
            let session = time::timeout(Duration::from_secs(10), tail.session(&shutdown));
            let ended = tokio::select! {
                ended = session => ended.expect("it does not wait for events"),
                () = serve => unreachable!("it does not end"),
            };
            let error = ended.err().expect("the session ends").to_string();
            assert_eq!(error, "wait (rate_limited)");
        }
    }

    #[test]
    fn a_position_in_another_log_is_void() {
        let topic = Topic::mastodon_public();
        let subscribed = |log: &str, seq| {
            let topics = vec![TopicStart { topic: Topic::mastodon_public(), seq }];
            Subscribed { log: log.to_owned(), topics }
        };
        let cases = [
            ("the same log", "a", 60, 50),
            ("the same log, which the client has read", "a", 50, 50),
            ("a log that ends before the position", "a", 7, 7),
            ("another log that has passed the position", "b", 60, 60),
            ("another log that is behind", "b", 7, 7),
        ];
        for (name, log, head, expected) in cases {
            let url = "ws://127.0.0.1/live".parse().expect("a URL");
            let topics = vec![topic.clone()];
            let options = Options { topics, url, token: None, last: 0, json: false };
            let mut tail = Tail { options, log: None, positions: BTreeMap::new() };
            tail.subscribed(subscribed("a", 50));
            assert_eq!(tail.since()[&topic], 50, "case: {name}");
            tail.subscribed(subscribed(log, head));
            assert_eq!(tail.since()[&topic], expected, "case: {name}");
            assert_eq!(tail.log.as_deref(), Some(log), "case: {name}");
        }
        let pong =
            ServerMessage::parse(r#"{"type":"pong","at":"…","heads":{"mastodon/public":9}}"#);
        let Some(ServerMessage::Pong(pong)) = pong else { panic!("a pong") };
        assert_eq!(pong.heads, BTreeMap::from([(topic, 9)]));
        let pong = ServerMessage::parse(r#"{"type":"pong","at":"…"}"#);
        assert!(matches!(pong, Some(ServerMessage::Pong(Pong { heads })) if heads.is_empty()));
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
