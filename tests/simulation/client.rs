//! Clients that come and go, are slow, resume, and subscribe one by one.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use domain::{connection::ConnectionId, topic::Topic};
use functions::connection;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use crate::world::World;

/// How many messages about a topic are kept.
const RECENT: usize = 12;

/// Events that a resuming client was promised can expire before they are sent, but not this soon.
const EXPIRES_LATER: Duration = Duration::from_secs(1);

/// What a client knows of a topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Position {
    /// The last number that it has or knows to be missing; `None` before the subscription is confirmed.
    pub(crate) seq: Option<u64>,
    /// When it was promised that all events after `seq` follow.
    recovered_at: Option<Instant>,
    /// The number up to which it has asked for a replay.
    asked: u64,
    /// The newest messages about the topic, with their times.
    pub(crate) recent: VecDeque<String>,
}

impl Position {
    fn note(&mut self, world: &World, text: &str) {
        if self.recent.len() == RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back(format!("{:.3} {text}", world.elapsed().as_secs_f64()));
    }
}

/// What all clients have, as the checks see it.
pub(crate) type Positions = Arc<Mutex<BTreeMap<(String, Topic), Position>>>;

/// One client over all its connections.
pub(crate) struct Client {
    pub(crate) name: String,
    pub(crate) topics: Vec<Topic>,
    pub(crate) rng: fastrand::Rng,
    pub(crate) positions: Positions,
    /// The id of the log that its numbers belong to.
    pub(crate) log: Option<Value>,
    /// Whether it does not accept messages at times.
    pub(crate) is_slow: bool,
}

/// Why a connection ended.
enum End {
    Left,
    Rejected,
}

impl Client {
    /// Connects again and again. After `peace`, it hurries, and stays connected.
    pub(crate) async fn run(mut self, world: Arc<World>, peace: Instant) {
        let mut number = 0;
        time::sleep(Duration::from_millis(self.rng.u64(..10_000))).await;
        loop {
            number += 1;
            let id = ConnectionId::new(format!("{}-{number}=", self.name));
            let leave_at = Instant::now() + Duration::from_millis(self.rng.u64(2_000..40_000));
            let leave_at = (leave_at < peace).then_some(leave_at);
            let end = self.connect(&world, id.clone(), leave_at, peace).await;
            world.gateway.close(&id);
            let is_reported = self.rng.f64() < 0.8;
            if is_reported {
                let event = event(&id, "DISCONNECT", &Value::Null);
                let _ = connection::handle(&world.app(), world.now(), event).await;
            }
            let pause = match end {
                End::Left if Instant::now() < peace => self.rng.u64(..5_000),
                End::Left | End::Rejected => 500,
            };
            time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn connect(
        &mut self,
        world: &World,
        id: ConnectionId,
        leave_at: Option<Instant>,
        peace: Instant,
    ) -> End {
        let handshake = event(&id, "CONNECT", &Value::Null);
        match connection::handle(&world.app(), world.now(), handshake).await {
            Ok(response) if response.status_code == 200 => {}
            Ok(_) | Err(_) => return End::Rejected,
        }
        let mut messages = world.gateway.open(&id);
        for topic in self.topics.clone() {
            let mut request = json!({"action": "subscribe", "id": topic, "topics": [topic]});
            let known = self.position(&topic, |position| position.seq);
            if let Some(seq) = known {
                request["since"] = json!({topic.as_str(): seq});
                request["log"] = json!(self.log);
            }
            loop {
                send(world, &id, &request);
                let answered = self.wait_for_answer(world, &id, &mut messages, &topic);
                match time::timeout(Duration::from_secs(5), answered).await {
                    Ok(Some(true)) => break,
                    Ok(Some(false)) | Err(_) => time::sleep(Duration::from_millis(300)).await,
                    Ok(None) => return End::Rejected,
                }
                if leave_at.is_some_and(|at| at < Instant::now()) {
                    return End::Left;
                }
            }
            if Instant::now() < peace && self.rng.f64() < 0.5 {
                let pause = Duration::from_millis(self.rng.u64(..3_000));
                let receiving = self.receive(world, &id, &mut messages);
                if time::timeout(pause, receiving).await.is_ok() {
                    return End::Left;
                }
            }
        }
        if self.is_slow && leave_at.is_some() && self.rng.f64() < 0.5 {
            world.gateway.block(&id, Duration::from_millis(self.rng.u64(100..8_000)));
        }
        let receiving = self.receive(world, &id, &mut messages);
        match leave_at {
            Some(at) => {
                let _ = time::timeout_at(at, receiving).await;
            }
            None => receiving.await,
        }
        End::Left
    }

    /// Returns whether the subscription succeeded; `None` if the connection has ended.
    async fn wait_for_answer(
        &mut self,
        world: &World,
        id: &ConnectionId,
        messages: &mut mpsc::UnboundedReceiver<Value>,
        topic: &Topic,
    ) -> Option<bool> {
        loop {
            let message = messages.recv().await?;
            if message["id"] == topic.as_str() {
                match message["type"].as_str() {
                    Some("subscribed") => {
                        let subscribed = &message["topics"][0];
                        let head = subscribed["seq"].as_u64().unwrap();
                        self.position(topic, |it| it.note(world, &format!("{id} {subscribed}")));
                        self.log = Some(message["log"].clone());
                        self.position(topic, |position| {
                            if position.seq.is_none() || subscribed["recovered"] == false {
                                position.seq = Some(head);
                            }
                            let is_recovered = subscribed["recovered"] == true;
                            position.recovered_at = is_recovered.then(Instant::now);
                        });
                        return Some(true);
                    }
                    Some("error") => {
                        self.position(topic, |it| it.note(world, &format!("{id} {message}")));
                        return Some(false);
                    }
                    _ => {}
                }
            }
            if is_revoked(&message) {
                return None;
            }
            self.apply(world, id, &message);
        }
    }

    async fn receive(
        &mut self,
        world: &World,
        id: &ConnectionId,
        messages: &mut mpsc::UnboundedReceiver<Value>,
    ) {
        while let Some(message) = messages.recv().await {
            self.apply(world, id, &message);
            if is_revoked(&message) {
                return;
            }
        }
    }

    fn apply(&mut self, world: &World, id: &ConnectionId, message: &Value) {
        let mut ranges = Vec::new();
        match message["type"].as_str() {
            Some("events") => {
                for frame in message["frames"].as_array().unwrap() {
                    let topic = Topic::parse(frame["topic"].as_str().unwrap()).unwrap();
                    let from = frame["seq"].as_u64().unwrap();
                    let count = frame["events"].as_array().unwrap().len() as u64;
                    ranges.push((topic, from, from + count - 1));
                }
            }
            Some("gap") => {
                let topic = Topic::parse(message["topic"].as_str().unwrap()).unwrap();
                let from = message["from"].as_u64().unwrap();
                let recovered_at = self.position(&topic, |position| position.recovered_at);
                let is_expired = message["reason"] != "lagging" && message["reason"] != "lost";
                if is_expired && recovered_at.is_some_and(|at| at.elapsed() < EXPIRES_LATER) {
                    world.trace.violation(&format!("{id} was recovered, and then sent {message}"));
                }
                ranges.push((topic, from, message["to"].as_u64().unwrap()));
            }
            // A request that was repeated is answered twice. What came in between is not sent.
            Some("subscribed") => {
                for subscribed in message["topics"].as_array().unwrap() {
                    let topic = Topic::parse(subscribed["topic"].as_str().unwrap()).unwrap();
                    if subscribed["recovered"] == false {
                        self.position(&topic, |position| position.recovered_at = None);
                    }
                    let head = subscribed["seq"].as_u64().unwrap();
                    ranges.push((topic, head + 1, head));
                }
            }
            _ => {}
        }
        for (topic, from, to) in ranges {
            let kind = message["type"].as_str().unwrap_or_default();
            let missing = self.position(&topic, |position| {
                position.note(world, &format!("{id} {kind} {from}-{to}"));
                let seq = position.seq?;
                if to <= seq {
                    return None;
                }
                if from > seq + 1 {
                    // A jump: the client asks for what is missing and drops the rest until it comes.
                    let is_asked = position.asked >= to;
                    position.asked = position.asked.max(to);
                    return (!is_asked).then_some((seq + 1, to));
                }
                position.seq = Some(to);
                None
            });
            if let Some((from, to)) = missing {
                world.trace.count("clients: jumps");
                let request = json!({"action": "replay", "topic": topic, "from": from, "to": to});
                send(world, id, &request);
            }
        }
    }

    fn position<T>(&self, topic: &Topic, change: impl FnOnce(&mut Position) -> T) -> T {
        let mut positions = self.positions.lock();
        change(positions.entry((self.name.clone(), topic.clone())).or_default())
    }
}

/// Returns whether a right was withdrawn. The client then connects again, and subscribes until it may.
fn is_revoked(message: &Value) -> bool {
    message["type"] == "error" && message["id"].is_null()
}

fn send(world: &World, id: &ConnectionId, request: &Value) {
    let event = event(id, "MESSAGE", &json!(request.to_string()));
    // The client goes on receiving whatever happens to its request.
    let app = world.app();
    let now = world.now();
    let kill = world.draw_kill();
    tokio::spawn(async move {
        let handling = connection::handle(&app, now, event);
        let _ = time::timeout(kill.unwrap_or(Duration::MAX), handling).await;
    });
}

fn event(
    id: &ConnectionId,
    kind: &str,
    body: &Value,
) -> aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest {
    let event = json!({
        "requestContext": {
            "eventType": kind,
            "connectedAt": 0,
            "requestTimeEpoch": 0,
            "connectionId": id,
            "domainName": "gateway",
            "apiId": "api",
            "stage": "live",
            "identity": {},
        },
        "body": body,
        "isBase64Encoded": false,
    });
    serde_json::from_value(event).unwrap()
}
