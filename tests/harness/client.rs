//! A WebSocket client that checks the protocol.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    net::{TcpSocket, TcpStream},
    time::{self, Instant},
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{
        Error, Message,
        client::IntoClientRequest as _,
        http::{
            HeaderValue,
            header::{ORIGIN, SEC_WEBSOCKET_PROTOCOL},
        },
    },
};

use crate::PATIENCE;

/// The number of recent messages that are printed when a wait fails.
const RECENT: usize = 12;

/// A received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The number.
    pub seq: u64,
    /// The time of the numbering.
    pub at: String,
    /// The bytes of the event.
    pub text: String,
}

impl Event {
    /// Returns the event as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// Returns the id of the trade.
    pub fn trade_id(&self) -> u64 {
        self.json()["trade_id"].as_u64().unwrap()
    }
}

/// Events that the server has reported as missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The topic.
    pub topic: String,
    /// The numbers.
    pub range: RangeInclusive<u64>,
    /// The reason.
    pub reason: String,
}

/// A client's connection.
///
/// Received events are queued by topic. An event with a number that was received before is dropped. The
/// client panics when numbers are missing without a `gap`.
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    /// The subprotocol that the server chose.
    pub subprotocol: Option<String>,
    /// The gaps that were reported, oldest first.
    pub gaps: Vec<Gap>,
    /// The number of received messages with events.
    pub messages: u64,
    events: HashMap<String, VecDeque<Event>>,
    /// The last number of each topic. Without an entry, any number may follow.
    seen: HashMap<String, u64>,
    /// The requested start of each topic: after a number, or `None` for `last`.
    starts: BTreeMap<String, Option<u64>>,
    replaying: Option<(String, RangeInclusive<u64>, Vec<Event>)>,
    others: VecDeque<Value>,
    recent: VecDeque<String>,
    requests: u64,
}

#[derive(Deserialize)]
struct Events {
    frames: Vec<Frame>,
}

#[derive(Deserialize)]
struct Frame {
    topic: String,
    seq: u64,
    at: String,
    events: Vec<Box<RawValue>>,
}

impl Client {
    /// Connects to a path, and offers subprotocols.
    ///
    /// # Errors
    ///
    /// The status, when the server rejects the handshake.
    pub async fn try_connect(
        address: SocketAddr,
        path: &str,
        protocols: &[&str],
    ) -> Result<Self, u16> {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::handshake(stream, address, path, protocols, None).await
    }

    /// Connects like a page of this origin in a browser.
    ///
    /// # Errors
    ///
    /// The status, when the server rejects the handshake.
    pub async fn from_page(address: SocketAddr, origin: &str) -> Result<Self, u16> {
        let stream = TcpStream::connect(address).await.unwrap();
        Self::handshake(stream, address, "/live", &[], Some(origin)).await
    }

    /// Connects with the smallest receive buffer that the kernel allows.
    pub async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(1_024).unwrap();
        let stream = socket.connect(address).await.unwrap();
        Self::handshake(stream, address, "/live", &[], None).await.unwrap()
    }

    /// Connects from another address of this machine.
    ///
    /// # Errors
    ///
    /// The status, when the server rejects the handshake.
    pub async fn connect_from(own: IpAddr, address: SocketAddr) -> Result<Self, u16> {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(own, 0)).unwrap();
        let stream = socket.connect(address).await.unwrap();
        Self::handshake(stream, address, "/live", &[], None).await
    }

    async fn handshake(
        stream: TcpStream,
        address: SocketAddr,
        path: &str,
        protocols: &[&str],
        origin: Option<&str>,
    ) -> Result<Self, u16> {
        let mut request = format!("ws://{address}{path}").into_client_request().unwrap();
        if !protocols.is_empty() {
            let value = HeaderValue::try_from(protocols.join(", ")).unwrap();
            request.headers_mut().insert(SEC_WEBSOCKET_PROTOCOL, value);
        }
        if let Some(origin) = origin {
            request.headers_mut().insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        let handshake = time::timeout(PATIENCE, client_async(request, stream)).await;
        let (socket, answer) = match handshake.expect("a response to the handshake") {
            Ok(connected) => connected,
            Err(Error::Http(answer)) => return Err(answer.status().as_u16()),
            // The library rejects a response without the subprotocol.
            Err(error) => panic!("no handshake: {error}"),
        };
        let subprotocol = answer.headers().get(SEC_WEBSOCKET_PROTOCOL);
        Ok(Self {
            socket,
            subprotocol: subprotocol.map(|name| name.to_str().unwrap().to_owned()),
            gaps: Vec::new(),
            messages: 0,
            events: HashMap::new(),
            seen: HashMap::new(),
            starts: BTreeMap::new(),
            replaying: None,
            others: VecDeque::new(),
            recent: VecDeque::new(),
            requests: 0,
        })
    }

    /// Sends a text message.
    pub async fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    /// Sends a binary message.
    pub async fn send_binary(&mut self, bytes: &[u8]) {
        self.socket.send(Message::binary(bytes.to_vec())).await.unwrap();
    }

    /// Sends a request.
    pub async fn send(&mut self, request: &Value) {
        if request["action"] == "subscribe" {
            for topic in request["topics"].as_array().into_iter().flatten() {
                let topic = topic.as_str().unwrap_or_default();
                let since = request["since"][topic].as_u64();
                let has_last = request["last"].as_u64().is_some_and(|last| last > 0);
                self.starts.remove(topic);
                if since.is_some() || has_last || topic.contains("/level2/") {
                    self.starts.insert(topic.to_owned(), since);
                }
            }
        }
        self.send_text(&request.to_string()).await;
    }

    /// Sends a request with a unique id, and returns the response.
    pub async fn ask(&mut self, request: Value) -> Value {
        self.requests += 1;
        let id = format!("ask-{}", self.requests);
        let mut request = request;
        request["id"] = json!(id);
        self.send(&request).await;
        self.wait_for(&format!("a response to {request}"), |it| it["id"] == *id).await
    }

    /// Sends `hello`, and returns the welcome.
    pub async fn hello(&mut self) -> Value {
        let welcome = self.ask(json!({"action": "hello"})).await;
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        welcome
    }

    /// Subscribes to topics, which must exist, from the next event on.
    pub async fn subscribe(&mut self, topics: &[&str]) -> Value {
        self.subscribe_with(topics, json!({})).await
    }

    /// Subscribes to topics, which must exist, with further members in the request.
    pub async fn subscribe_with(&mut self, topics: &[&str], more: Value) -> Value {
        let mut request = json!({"action": "subscribe", "topics": topics});
        for (key, value) in more.as_object().into_iter().flatten() {
            request[key] = value.clone();
        }
        let answer = self.ask(request).await;
        assert_eq!(answer["type"], "subscribed", "{answer}");
        assert_eq!(answer["topics"].as_array().unwrap().len(), topics.len(), "{answer}");
        answer
    }

    /// Returns the next message of a type other than `events`.
    pub async fn expect(&mut self, kind: &str) -> Value {
        self.wait_for(&format!("a message of type {kind}"), |it| it["type"] == kind).await
    }

    /// Returns the next message of one of these types, which must not include `events`.
    pub async fn expect_one_of(&mut self, kinds: &[&str]) -> Value {
        let is_it = |it: &Value| kinds.iter().any(|kind| it["type"] == *kind);
        self.wait_for(&format!("a message of a type among {kinds:?}"), is_it).await
    }

    /// Returns the next events of a topic.
    pub async fn events(&mut self, topic: &str, count: usize) -> Vec<Event> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let here = self.events.entry(topic.to_owned()).or_default();
            if here.len() >= count {
                return here.drain(..count).collect();
            }
            let what = format!("{count} events of {topic}; received {} so far", here.len());
            self.read(&what, deadline).await;
        }
    }

    /// Returns the next event of a topic.
    pub async fn event(&mut self, topic: &str) -> Event {
        self.events(topic, 1).await.remove(0)
    }

    /// Returns the next event of a topic, or `None` if the connection ends first.
    pub async fn event_or_end(&mut self, topic: &str) -> Option<Event> {
        loop {
            if let Some(event) = self.events.get_mut(topic).and_then(VecDeque::pop_front) {
                return Some(event);
            }
            let message = time::timeout(PATIENCE, self.socket.next()).await;
            match message.expect("an event or the end") {
                Some(Ok(Message::Text(text))) => self.handle(&text),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                Some(Ok(_) | Err(_)) | None => return None,
            }
        }
    }

    /// Returns the next events of a topic, up to and including the one that `is_last` accepts.
    pub async fn events_until(
        &mut self,
        topic: &str,
        mut is_last: impl FnMut(&Event) -> bool,
    ) -> Vec<Event> {
        let mut events = Vec::new();
        loop {
            let event = self.event(topic).await;
            let is_end = is_last(&event);
            events.push(event);
            if is_end {
                return events;
            }
        }
    }

    /// Returns the events of a topic, until those up to a number have arrived or were reported as missing.
    pub async fn events_up_to(&mut self, topic: &str, seq: u64) -> Vec<Event> {
        let deadline = Instant::now() + PATIENCE;
        while self.seen.get(topic).is_none_or(|seen| *seen < seq) {
            self.read(&format!("number {seq} of {topic}"), deadline).await;
        }
        self.drain(topic)
    }

    /// Requests a replay and returns the replayed events.
    pub async fn replay(&mut self, topic: &str, range: RangeInclusive<u64>) -> Vec<Event> {
        let count = usize::try_from(range.end() - range.start() + 1).unwrap();
        let request =
            json!({"action": "replay", "topic": topic, "from": range.start(), "to": range.end()});
        self.replaying = Some((topic.to_owned(), range, Vec::new()));
        self.send(&request).await;
        let deadline = Instant::now() + PATIENCE;
        while self.replaying.as_ref().is_some_and(|(_, _, events)| events.len() < count) {
            self.read("a replay", deadline).await;
        }
        self.replaying.take().map(|(_, _, events)| events).unwrap_or_default()
    }

    /// Waits until the server closes the connection, and returns code and reason.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            let message = time::timeout(PATIENCE, self.socket.next()).await;
            match message.expect("the server closes the connection") {
                Some(Ok(Message::Close(Some(frame)))) => {
                    return (frame.code.into(), frame.reason.to_string());
                }
                Some(Ok(Message::Close(None))) => return (1005, String::new()),
                Some(Ok(_)) => {}
                Some(Err(error)) => panic!("the connection was lost: {error}"),
                None => return (1006, String::new()),
            }
        }
    }

    /// Closes the connection.
    pub async fn close(mut self) {
        self.socket.close(None).await.unwrap();
        while let Some(Ok(_)) = self.socket.next().await {}
    }

    /// Reads until the connection ends.
    pub async fn read_to_the_end(&mut self) {
        while let Ok(Some(Ok(message))) = time::timeout(PATIENCE, self.socket.next()).await {
            if let Message::Text(text) = message {
                self.handle(&text);
            }
        }
    }

    /// Returns the received events of a topic that were not returned yet.
    pub fn drain(&mut self, topic: &str) -> Vec<Event> {
        self.events.remove(topic).unwrap_or_default().into()
    }

    async fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(index) = self.others.iter().position(&is_it) {
                return self.others.remove(index).unwrap();
            }
            self.read(what, deadline).await;
        }
    }

    async fn read(&mut self, what: &str, deadline: Instant) {
        match time::timeout_at(deadline, self.socket.next()).await {
            Ok(Some(Ok(Message::Text(text)))) => self.handle(&text),
            Ok(Some(Ok(Message::Ping(_) | Message::Pong(_)))) => {}
            Ok(other) => panic!("waited for {what}, received {other:?} after {:#?}", self.recent),
            Err(time::error::Elapsed { .. }) => {
                panic!("timed out waiting for {what}; the last messages: {:#?}", self.recent)
            }
        }
    }

    fn handle(&mut self, text: &str) {
        self.recent.push_back(text.chars().take(200).collect());
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
        let message: Value = serde_json::from_str(text).unwrap();
        match message["type"].as_str() {
            Some("events") => {
                self.messages += 1;
                // Parsed from the text, so that the events keep their bytes.
                let events: Events = serde_json::from_str(text).unwrap();
                for frame in events.frames {
                    self.handle_frame(frame);
                }
            }
            Some("gap") => {
                let number = |name: &str| message[name].as_u64().unwrap();
                let topic = message["topic"].as_str().unwrap().to_owned();
                let mut from = number("from");
                let to = number("to");
                let reason = message["reason"].as_str().unwrap().to_owned();
                if reason == "reset" {
                    self.seen.insert(topic.clone(), to);
                } else if let Some(seen) = self.seen.get_mut(&topic) {
                    // Delivery is at least once, so a gap can include events that have arrived.
                    assert!(
                        from <= *seen + 1,
                        "numbers before the gap are missing; last: {:#?}",
                        self.recent
                    );
                    from = *seen + 1;
                    *seen = to.max(*seen);
                }
                if from <= to {
                    self.gaps.push(Gap { topic, range: from..=to, reason });
                }
            }
            Some("subscribed") => {
                for entry in message["topics"].as_array().unwrap() {
                    let topic = entry["topic"].as_str().unwrap().to_owned();
                    let seq = entry["seq"].as_u64().unwrap();
                    match self.starts.remove(&topic) {
                        Some(Some(since)) => self.seen.insert(topic, since.min(seq)),
                        Some(None) => self.seen.remove(&topic),
                        None => self.seen.insert(topic, seq),
                    };
                }
                self.others.push_back(message);
            }
            _ => self.others.push_back(message),
        }
    }

    fn handle_frame(&mut self, frame: Frame) {
        let Frame { topic, seq, at, events } = frame;
        assert!(!events.is_empty(), "a frame of {topic} without events");
        for (seq, event) in (seq..).zip(events) {
            let event = Event { seq, at: at.clone(), text: event.get().to_owned() };
            if let Some((replayed, range, found)) = &mut self.replaying
                && *replayed == topic
                && range.contains(&seq)
            {
                found.push(event.clone());
            }
            match self.seen.get(&topic).copied() {
                Some(seen) if seq <= seen => continue,
                Some(seen) => {
                    assert_eq!(
                        seq,
                        seen + 1,
                        "numbers of {topic} are missing; last: {:#?}",
                        self.recent
                    );
                }
                None => {}
            }
            self.seen.insert(topic.clone(), seq);
            self.events.entry(topic.clone()).or_default().push_back(event);
        }
    }
}
