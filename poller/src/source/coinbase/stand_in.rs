//! An exchange to test against, which does what a test tells it to, and a recorder of what is
//! published.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use aws::{control::Product, error::StoreError};
use axum::{
    Json, Router,
    extract::{Path, Query},
    http::{HeaderMap, StatusCode, request::Parts},
    response::{IntoResponse as _, Response},
    routing::get,
};
use domain::{frame::Frame, source::State, topic::Topic};
use serde_json::{Value, json};
use simulator::script::{ExchangePeer, Handshake, Io, ScriptedServer};
use tokio::{
    net::TcpListener,
    sync::{mpsc, watch},
    time,
};

use super::{downstream::Downstream, rest::Rest};
use crate::{outgoing::Outgoing, wanted::Wanted};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(20);

/// Waits for something that has to happen.
pub(super) async fn soon<F: Future>(future: F) -> F::Output {
    time::timeout(PATIENCE, future).await.expect("it happens")
}

/// The topics of these names.
pub(super) fn topics(names: &[&str]) -> Arc<Wanted> {
    Arc::new(names.iter().map(|name| Topic::parse(name).expect("a topic")).collect())
}

/// An exchange whose WebSocket messages a test sends.
pub(super) struct Exchange {
    server: ScriptedServer,
}

impl Exchange {
    pub(super) async fn open() -> Self {
        let respond = |_: &Parts| StatusCode::NOT_FOUND.into_response();
        Self { server: ScriptedServer::start(respond).await.expect("a port") }
    }

    pub(super) fn address(&self) -> String {
        self.server.address().to_string()
    }

    /// Waits for the next handshake.
    pub(super) async fn handshake(&self) -> Handshake {
        self.server.handshake().await
    }

    /// Waits for the next connection.
    pub(super) async fn accept(&self) -> ExchangePeer<Io> {
        ExchangePeer::new(self.handshake().await.accept().await)
    }
}

/// A trade as the REST interface tells it.
pub(super) fn rest_trade(id: u64) -> Value {
    json!({"trade_id": id, "side": "buy", "size": "1", "price": "2", "time": "t"})
}

/// Serves a REST interface and returns a client of it.
pub(super) async fn serve(router: Router) -> Rest {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let base = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    Rest::new(&base, "headwater/test".parse().expect("a header")).expect("a client")
}

/// A REST interface that knows all trades of all products from 1 up to a newest one. It says what
/// it was asked.
pub(super) fn trades_up_to(newest: u64) -> (Router, mpsc::UnboundedReceiver<u64>) {
    let (asked, asks) = mpsc::unbounded_channel();
    let page = move |Path(_): Path<String>, Query(query): Query<HashMap<String, u64>>, headers| {
        let asked = asked.clone();
        async move {
            let headers: HeaderMap = headers;
            if !headers.contains_key("user-agent") {
                return StatusCode::BAD_REQUEST.into_response();
            }
            let after = query["after"];
            let limit = query["limit"].min(1_000);
            asked.send(after).expect("the test listens");
            page(newest, after, limit)
        }
    };
    (Router::new().route("/products/{id}/trades", get(page)), asks)
}

/// A page of trades before `after`.
fn page(newest: u64, after: u64, limit: u64) -> Response {
    let end = newest.min(after - 1);
    let ids: Vec<u64> = (1..=end).rev().take(usize::try_from(limit).expect("small")).collect();
    let cursors: Vec<(&str, String)> = [("cb-before", ids.first()), ("cb-after", ids.last())]
        .into_iter()
        .filter_map(|(name, id)| Some((name, id?.to_string())))
        .collect();
    let headers = cursors
        .iter()
        .map(|(name, id)| (name.parse().expect("a name"), id.parse().expect("a header")));
    let headers: HeaderMap = headers.collect();
    (headers, Json(ids.into_iter().map(rest_trade).collect::<Vec<_>>())).into_response()
}

/// Records what a source does, in the place of a feed.
#[derive(Clone)]
pub(super) struct Recorder {
    wanted: watch::Receiver<Arc<Wanted>>,
    events: mpsc::UnboundedSender<(Topic, Outgoing)>,
    states: watch::Sender<(State, String)>,
    products: watch::Sender<Vec<Product>>,
    logged: Arc<Mutex<HashMap<Topic, Frame>>>,
}

/// The other end of a recorder.
pub(super) struct Records {
    pub(super) wanted: watch::Sender<Arc<Wanted>>,
    pub(super) events: mpsc::UnboundedReceiver<(Topic, Outgoing)>,
    pub(super) states: watch::Receiver<(State, String)>,
    pub(super) products: watch::Receiver<Vec<Product>>,
    logged: Arc<Mutex<HashMap<Topic, Frame>>>,
}

impl Recorder {
    pub(super) fn new() -> (Self, Records) {
        let (want, wanted) = watch::channel(Arc::default());
        let (events, published) = mpsc::unbounded_channel();
        let (states, reported) = watch::channel((State::Connecting, "not started".to_owned()));
        let (products, listed) = watch::channel(Vec::new());
        let logged = Arc::default();
        let records = Records {
            wanted: want,
            events: published,
            states: reported,
            products: listed,
            logged: Arc::clone(&logged),
        };
        (Self { wanted, events, states, products, logged }, records)
    }
}

impl Records {
    pub(super) fn want(&self, names: &[&str]) {
        self.wanted.send_replace(topics(names));
    }

    /// Puts an event in the log.
    pub(super) fn log(&self, topic: &str, event: &Value) {
        let topic = Topic::parse(topic).expect("a topic");
        let frame = Frame::new(topic.clone(), 1, jiff::Timestamp::UNIX_EPOCH, &[event.to_string()]);
        self.logged.lock().expect("not poisoned").insert(topic, frame);
    }

    /// Waits for the next event.
    pub(super) async fn event(&mut self) -> Value {
        let (_, event) = soon(self.events.recv()).await.expect("an event");
        serde_json::from_slice(&event.json).expect("JSON")
    }

    /// Waits for the next trades and returns their ids.
    pub(super) async fn trades(&mut self, count: usize) -> Vec<u64> {
        let mut ids = Vec::new();
        while ids.len() < count {
            ids.extend(self.event().await["trade_id"].as_u64());
        }
        ids
    }

    /// Waits for a state with words in its detail.
    pub(super) async fn state(&mut self, state: State, words: &str) {
        let is_it = |reported: &(State, String)| reported.0 == state && reported.1.contains(words);
        let is_reported = time::timeout(PATIENCE, self.states.wait_for(is_it)).await.is_ok();
        assert!(is_reported, "expected {state:?} {words:?}, got {:?}", self.states.borrow());
    }
}

impl Downstream for Recorder {
    fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.wanted.clone()
    }

    fn publish(&self, topic: &Topic, event: Outgoing) {
        // A test that is over does not listen.
        let _ = self.events.send((topic.clone(), event));
    }

    fn report(&self, state: State, detail: String) {
        self.states.send_if_modified(|reported| {
            let is_new = *reported != (state, detail.clone());
            *reported = (state, detail);
            is_new
        });
    }

    async fn newest(&self, topic: &Topic) -> Result<Option<Frame>, StoreError> {
        Ok(self.logged.lock().expect("not poisoned").get(topic).cloned())
    }

    async fn put_products(&self, products: &[Product]) -> Result<(), StoreError> {
        self.products.send_replace(products.to_vec());
        Ok(())
    }
}
