//! The function `connection` on an embedded database, with a stand-in for the gateway.

use std::{sync::Arc, time::Duration};

use aws::tables::Tables;
use bytes::Bytes;
use clap::Parser as _;
use domain::{
    access::Principal,
    connection::{Connection, ConnectionId, Recipient},
    entry::Entry,
    frame::Frame,
    outlet::{Outlet, OutletError},
    rules::{RuleSet, SetText},
    topic::Topic,
};
use functions::{app::App, connection, settings::Options};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time;

use crate::database::Database;

/// Records the messages to all connections.
#[derive(Default)]
pub(crate) struct Gateway {
    messages: Mutex<Vec<(ConnectionId, Bytes)>>,
    /// How long a post takes.
    delay: Mutex<Duration>,
}

impl Gateway {
    pub(crate) fn set_delay(&self, delay: Duration) {
        *self.delay.lock() = delay;
    }
}

impl Outlet for Gateway {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, OutletError)>> {
        let posts = recipients.iter().map(|to| (to.id.clone(), message.clone()));
        self.messages.lock().extend(posts);
        let delay = *self.delay.lock();
        Box::pin(async move {
            time::sleep(delay).await;
            Vec::new()
        })
    }

    fn close<'a>(&'a self, _: &'a Recipient) -> BoxFuture<'a, Result<(), OutletError>> {
        Box::pin(async { Ok(()) })
    }
}

#[derive(clap::Parser)]
struct Cli {
    #[command(flatten)]
    options: Options,
}

pub(crate) struct World {
    pub database: Database,
    pub tables: Tables,
    pub gateway: Arc<Gateway>,
    pub app: Arc<App>,
}

impl World {
    pub(crate) async fn new() -> Self {
        Self::with_history(None).await
    }

    /// Everything is permitted. Clients can read this many of the newest events of a topic.
    pub(crate) async fn with_history(history: Option<u64>) -> Self {
        let database = Database::new();
        let tables = database.tables();
        tables.create_missing().await.unwrap();
        let gateway = Arc::new(Gateway::default());
        let options = Cli::try_parse_from(["functions"]).unwrap().options;
        let limits =
            json!({"anonymous": {"topics": 50, "messagesPerSecond": 1_000, "history": history}});
        let text = SetText { limits: limits.to_string(), ..SetText::open() };
        let preset = RuleSet::read(text).unwrap();
        let secret = SecretString::from("secret");
        let app = App::new(tables.clone(), gateway.clone(), options, preset, secret);
        Self { database, tables, gateway, app: Arc::new(app) }
    }

    pub(crate) async fn connect(&self, id: &str) -> Recipient {
        let to = Recipient { endpoint: "http://gateway".into(), id: ConnectionId::new(id) };
        let now = Timestamp::now();
        let open = Connection::open(to.clone(), 0, Principal::anonymous(), now);
        self.tables.connections.open(&open).await.unwrap();
        to
    }

    /// Sends the message of a client to the function, and returns what the client is sent.
    pub(crate) async fn send(&self, from: &Recipient, message: Value) -> Vec<Value> {
        let event = json!({
            "requestContext": {
                "eventType": "MESSAGE",
                "connectedAt": Timestamp::now().as_millisecond(),
                "requestTimeEpoch": Timestamp::now().as_millisecond(),
                "connectionId": from.id,
                "domainName": "gateway",
                "apiId": "api",
                "stage": "live",
                "identity": {},
            },
            "body": message.to_string(),
            "isBase64Encoded": false,
        });
        let event = serde_json::from_value(event).unwrap();
        connection::handle(&self.app, Timestamp::now(), event).await.unwrap();
        let sent = std::mem::take(&mut *self.gateway.messages.lock());
        let mine = sent.iter().filter(|(id, _)| *id == from.id);
        mine.map(|(_, message)| serde_json::from_slice(message).unwrap()).collect()
    }

    /// Appends events whose content is their number.
    pub(crate) async fn append(&self, topic: &Topic, from: u64, to: u64) {
        self.append_at(topic, from, to, Timestamp::now()).await;
    }

    /// Appends events that were written at a time.
    pub(crate) async fn append_at(&self, topic: &Topic, from: u64, to: u64, at: Timestamp) {
        let events: Vec<String> = (from..=to).map(|n| n.to_string()).collect();
        let entry = Entry::Frame(Frame::new(topic.clone(), from, at, &events));
        self.tables.log.append(&entry, None, at).await.unwrap();
    }

    /// Appends numbers whose events were dropped.
    pub(crate) async fn append_lost(&self, topic: &Topic, seq: u64, last: u64) {
        let entry = Entry::Lost { topic: topic.clone(), seq, last, is_logged: false };
        self.tables.log.append(&entry, None, Timestamp::now()).await.unwrap();
    }

    pub(crate) async fn log_id(&self) -> String {
        self.tables.control.log_id().await.unwrap().unwrap().to_string()
    }
}

pub(crate) fn topic() -> Topic {
    Topic::parse("coinbase/matches/BTC-USD").unwrap()
}

/// Describes a message in a line.
pub(crate) fn summary(message: &Value) -> String {
    match message["type"].as_str().unwrap() {
        "events" => {
            let frames = message["frames"].as_array().unwrap().iter();
            let seqs = frames.flat_map(|frame| {
                let first = frame["seq"].as_u64().unwrap();
                let count = frame["events"].as_array().unwrap().len() as u64;
                first..first + count
            });
            let seqs: Vec<u64> = seqs.collect();
            format!("events {}-{}", seqs.first().unwrap(), seqs.last().unwrap())
        }
        "gap" => format!(
            "gap {}-{} {}",
            message["from"],
            message["to"],
            message["reason"].as_str().unwrap()
        ),
        "subscribed" => {
            let topic = &message["topics"][0];
            format!("subscribed at {} recovered {}", topic["seq"], topic["recovered"])
        }
        "error" => format!("error {}", message["code"].as_str().unwrap()),
        other => other.to_owned(),
    }
}
