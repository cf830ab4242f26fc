//! `headwater tail`: prints topics in a terminal, reconnects and resumes.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::{self, Write as _},
    time::Duration,
};

use ::poller::backoff::Backoff;
use anyhow::{Context as _, bail};
use domain::{protocol::SUBPROTOCOL, topic::Topic};
use futures_util::{SinkExt as _, StreamExt as _};
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::{self, Instant};
use tokio_tungstenite::{
    connect_async,
    tungstenite::{
        Message,
        client::IntoClientRequest as _,
        http::{HeaderValue, StatusCode, header::SEC_WEBSOCKET_PROTOCOL},
    },
};
use tokio_util::sync::CancellationToken;
use url::Url;

/// How often something is sent, so that API Gateway does not end the connection as idle.
const KEEP_ALIVE: Duration = Duration::from_mins(5);

/// Longest text of a post that is printed, in characters.
const TEXT_CHARS: usize = 160;

/// The settings of `headwater tail`.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Topics, such as `coinbase/ticker/BTC-USD` or `mastodon/public`.
    #[arg(required = true)]
    pub topics: Vec<Topic>,

    /// Address of the WebSocket API.
    #[arg(long, env = "HEADWATER_URL", default_value = "ws://127.0.0.1:8080/live")]
    pub url: Url,

    /// Token to show, as `headwater token` makes it.
    #[arg(long, env = "HEADWATER_TOKEN", hide_env_values = true)]
    pub token: Option<String>,

    /// How many of the newest events to print first.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000))]
    pub last: u64,

    /// Print each event as a JSON line: topic, seq, at, event.
    #[arg(long)]
    pub json: bool,
}

/// A message of the server, as far as this program reads it.
enum Told {
    Subscribed(Vec<Standing>),
    Events(Vec<Frame>),
    Gap(Gap),
    Error(Refusal),
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Subscribed {
    topics: Vec<Standing>,
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
struct Refusal {
    code: String,
    message: String,
    topic: Option<String>,
}

impl Told {
    /// Reads a message; `None` for one that means nothing here. API Gateway has messages of its
    /// own, without a type.
    fn parse(text: &str) -> Option<Self> {
        // An enum with a tag would copy the events, and could not keep their text.
        let kind: Kind<'_> = serde_json::from_str(text).ok()?;
        match kind.kind.as_ref() {
            "subscribed" => {
                let told: Subscribed = serde_json::from_str(text).ok()?;
                Some(Self::Subscribed(told.topics))
            }
            "events" => {
                let told: Events = serde_json::from_str(text).ok()?;
                Some(Self::Events(told.frames))
            }
            "gap" => serde_json::from_str(text).ok().map(Self::Gap),
            "error" => serde_json::from_str(text).ok().map(Self::Error),
            _ => None,
        }
    }
}

#[derive(Deserialize)]
struct Standing {
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

/// Why a session ended.
enum Ended {
    /// Try again.
    Lost(String),
    /// There is no use in trying again.
    Refused(String),
    /// Nobody reads the output any more.
    OutputClosed,
    /// We were asked to stop.
    Stopped,
}

/// Prints until `shutdown`.
///
/// # Errors
///
/// When the server refuses the topics or the token.
pub async fn run(options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut tail = Tail { options, seen: BTreeMap::new() };
    let mut backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(30));
    loop {
        let before = tail.seen.clone();
        match tail.session(&shutdown).await {
            Ended::Stopped | Ended::OutputClosed => return Ok(()),
            Ended::Refused(reason) => bail!(reason),
            Ended::Lost(reason) => {
                if tail.seen != before {
                    backoff.reset();
                }
                let delay = backoff.next_delay(&mut rand::rng());
                note(&format!("{reason}; connecting again in {:.1} s", delay.as_secs_f32()));
                if shutdown.run_until_cancelled(time::sleep(delay)).await.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

struct Tail {
    options: Options,
    /// By topic, the last number that was printed.
    seen: BTreeMap<Topic, u64>,
}

impl Tail {
    async fn session(&mut self, shutdown: &CancellationToken) -> Ended {
        match self.try_session(shutdown).await {
            Ok(ended) => ended,
            Err(error) => Ended::Lost(format!("{error:#}")),
        }
    }

    async fn try_session(&mut self, shutdown: &CancellationToken) -> anyhow::Result<Ended> {
        let url = self.options.url.as_str();
        let mut request = url.into_client_request()?;
        let protocols = match &self.options.token {
            Some(token) => format!("{SUBPROTOCOL}, bearer.{token}"),
            None => SUBPROTOCOL.to_owned(),
        };
        let protocols = HeaderValue::from_str(&protocols).context("the token is not a token")?;
        request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, protocols);
        let connected = shutdown.run_until_cancelled(connect_async(request)).await;
        let mut socket = match connected {
            None => return Ok(Ended::Stopped),
            Some(Ok((socket, _))) => socket,
            Some(Err(tokio_tungstenite::tungstenite::Error::Http(answer))) => {
                let status = answer.status();
                let reason = format!("{url} refused the connection: {status}");
                let for_good =
                    [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
                return Ok(if for_good.contains(&status) {
                    Ended::Refused(reason)
                } else {
                    Ended::Lost(reason)
                });
            }
            Some(Err(error)) => return Err(error).context(format!("cannot connect to {url}")),
        };
        let subscribe = json!({
            "action": "subscribe",
            "topics": self.options.topics,
            "since": self.seen,
            "last": self.options.last,
        });
        socket.send(Message::text(subscribe.to_string())).await?;
        let mut refused = 0;
        let mut quiet = Instant::now() + KEEP_ALIVE;
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => {
                    let _ = socket.close(None).await;
                    return Ok(Ended::Stopped);
                }
                () = time::sleep_until(quiet) => {
                    quiet = Instant::now() + KEEP_ALIVE;
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
                Some(Err(error)) => return Err(error).context("the connection broke"),
            };
            let Some(told) = Told::parse(&text) else { continue };
            match told {
                Told::Subscribed(topics) => {
                    for Standing { topic, seq } in topics {
                        self.seen.entry(topic).or_insert(seq.saturating_sub(self.options.last));
                    }
                }
                Told::Gap(Gap { topic, from, to, reason }) => {
                    note(&format!("{topic}: {from} to {to} are missing ({reason})"));
                    let seen = self.seen.entry(topic).or_default();
                    *seen = (*seen).max(to);
                }
                Told::Error(Refusal { code, message, topic }) => {
                    note(&format!("{}: {message} ({code})", topic.as_deref().unwrap_or("error")));
                    refused += usize::from(topic.is_some());
                    if refused >= self.options.topics.len() {
                        return Ok(Ended::Refused("no topic is left to print".to_owned()));
                    }
                }
                Told::Events(frames) => {
                    for frame in frames {
                        let seen = self.seen.get(&frame.topic).copied().unwrap_or(0);
                        if seen > 0 && frame.seq > seen + 1 {
                            let (from, to) = (seen + 1, frame.seq - 1);
                            let replay = json!({
                                "action": "replay", "topic": frame.topic, "from": from, "to": to,
                            });
                            note(&format!("{}: {from} to {to} asked for again", frame.topic));
                            socket.send(Message::text(replay.to_string())).await?;
                        }
                        if self.print(frame).is_err() {
                            return Ok(Ended::OutputClosed);
                        }
                    }
                }
            }
        }
    }

    /// Prints what was not printed before.
    fn print(&mut self, frame: Frame) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let seen = self.seen.entry(frame.topic.clone()).or_default();
        for (seq, event) in (frame.seq..).zip(frame.events) {
            if seq <= *seen {
                continue;
            }
            *seen = seq;
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

/// One line about an event.
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
            let author = event.pointer("/author/handle").and_then(Value::as_str);
            let (author, text) = (author.unwrap_or("somebody"), short(text("text")));
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

/// Tells the person, beside the output.
fn note(text: &str) {
    // Where even that fails, there is nobody to tell.
    let _ = writeln!(io::stderr(), "headwater: {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_keep_their_text() {
        let text = r#"{"type":"events","frames":[{"topic":"mastodon/public","seq":7,"at":"2026-11-22T10:00:00Z","events":[{"b": 1, "a":2}]}]}"#;
        let Some(Told::Events(frames)) = Told::parse(text) else { panic!("events") };
        assert_eq!(frames[0].events[0].get(), r#"{"b": 1, "a":2}"#);
        assert!(Told::parse(r#"{"message":"Internal server error","connectionId":"x"}"#).is_none());
        assert!(Told::parse(r#"{"type":"new"}"#).is_none());
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
