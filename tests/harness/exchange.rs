//! A stand-in for Coinbase Exchange that says what a test has it say.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{self, UnboundedSender},
    time,
};

use crate::{
    site::{self, Answer, Order, Request, Site, Socket},
    until,
};

/// How often the exchange says that it lives.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// The id before that of a product's first trade.
const FIRST_TRADE: u64 = 1_000;

/// A running exchange: WebSocket feed and REST interface on one port.
///
/// By itself it acknowledges what is asked of it and sends heartbeats; a trade goes to whoever asked
/// for it and to the REST interface.
pub struct Exchange {
    desk: Arc<Desk>,
}

struct Desk {
    address: SocketAddr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    products: BTreeSet<String>,
    /// By product and id, as the REST interface tells of them.
    trades: BTreeMap<String, BTreeMap<u64, Value>>,
    /// By product, what is sent to whoever asks for its book.
    books: BTreeMap<String, String>,
    lines: Vec<Line>,
    accepted: usize,
    requests: Vec<Value>,
    refusal: Option<u16>,
}

/// One WebSocket.
struct Line {
    id: usize,
    orders: UnboundedSender<Order>,
    subscribed: BTreeSet<(String, String)>,
    is_silent: bool,
}

impl Line {
    fn say(&self, text: impl Into<String>) {
        if !self.is_silent {
            // It may be gone.
            let _ = self.orders.send(Order::Text(text.into()));
        }
    }

    fn has(&self, channel: &str, product: &str) -> bool {
        self.subscribed.iter().any(|(name, id)| name == channel && id == product)
    }
}

impl Exchange {
    /// Opens an exchange that lists three products.
    pub async fn start() -> Self {
        let products = ["BTC-USD", "ETH-USD", "SOL-USD"].map(str::to_owned).into();
        let state = Mutex::new(State { products, ..State::default() });
        let desk = site::serve(|address| Desk { address, state }).await;
        let beating = desk.clone();
        tokio::spawn(async move {
            let mut beats = time::interval(HEARTBEAT);
            loop {
                beats.tick().await;
                beating.state.lock().beat();
            }
        });
        Self { desk }
    }

    /// Address of its WebSocket feed.
    pub fn url(&self) -> String {
        format!("ws://{}", self.desk.address)
    }

    /// Address of its REST interface.
    pub fn rest_url(&self) -> String {
        format!("http://{}", self.desk.address)
    }

    /// Makes a trade, tells it, and returns its id.
    pub fn trade(&self, product: &str) -> u64 {
        let mut state = self.desk.state.lock();
        let id = state.record(product);
        let text = match_text(product, id);
        for line in state.lines.iter().filter(|line| line.has("matches", product)) {
            line.say(text.clone());
        }
        id
    }

    /// Makes a trade that only the REST interface tells of, and returns its id.
    pub fn trade_unheard(&self, product: &str) -> u64 {
        self.desk.state.lock().record(product)
    }

    /// The id of a product's newest trade.
    pub fn newest_trade(&self, product: &str) -> u64 {
        self.desk.state.lock().newest(product).unwrap_or(FIRST_TRADE)
    }

    /// Sends a text to every client.
    pub fn send(&self, text: impl Into<String>) {
        let text = text.into();
        for line in &self.desk.state.lock().lines {
            line.say(text.clone());
        }
    }

    /// Sends bytes to every client.
    pub fn send_binary(&self, bytes: &[u8]) {
        for line in &self.desk.state.lock().lines {
            let _ = line.orders.send(Order::Binary(bytes.to_vec()));
        }
    }

    /// Sets what is sent to whoever asks for the book of a product.
    pub fn set_book(&self, product: &str, snapshot: &str) {
        self.desk.state.lock().books.insert(product.to_owned(), snapshot.to_owned());
    }

    /// Waits until a client has a channel of a product.
    pub async fn subscribed(&self, channel: &str, product: &str) {
        until(&format!("somebody asks the exchange for {channel} of {product}"), async || {
            let state = self.desk.state.lock();
            state.lines.iter().any(|line| line.has(channel, product)).then_some(())
        })
        .await;
    }

    /// How many clients have come so far.
    pub fn accepted(&self) -> usize {
        self.desk.state.lock().accepted
    }

    /// Everything that clients have asked for.
    pub fn requests(&self) -> Vec<Value> {
        self.desk.state.lock().requests.clone()
    }

    /// Breaks all connections.
    pub fn drop_all(&self) {
        // Forgotten at once: nothing that is said from here on is for them.
        for line in self.desk.state.lock().lines.drain(..) {
            let _ = line.orders.send(Order::Drop);
        }
    }

    /// Says nothing any more on the connections that there are.
    pub fn fall_silent(&self) {
        for line in &mut self.desk.state.lock().lines {
            line.is_silent = true;
        }
    }

    /// Answers handshakes with this status, or accepts them again.
    pub fn refuse(&self, status: Option<u16>) {
        self.desk.state.lock().refusal = status;
    }
}

/// A trade as the feed tells of it.
fn match_text(product: &str, id: u64) -> String {
    format!(
        r#"{{"type":"match","trade_id":{id},"maker_order_id":"b26c0a4f-0b0c-4f0a-a1cb-0e5c7f0b7a01","taker_order_id":"e1d1a2b3-8c55-4d7e-9d5c-5b0d0f6f7a02","side":"sell","size":"0.2","price":"63514.6","product_id":"{product}","sequence":{},"time":"2026-11-22T10:00:00.164892Z"}}"#,
        id + 132_000_000_000
    )
}

impl State {
    fn newest(&self, product: &str) -> Option<u64> {
        self.trades.get(product)?.last_key_value().map(|(id, _)| *id)
    }

    fn record(&mut self, product: &str) -> u64 {
        let id = self.newest(product).unwrap_or(FIRST_TRADE) + 1;
        let trade = json!({
            "trade_id": id, "side": "sell", "size": "0.2", "price": "63514.6",
            "time": "2026-11-22T10:00:00.164892Z",
        });
        self.trades.entry(product.to_owned()).or_default().insert(id, trade);
        id
    }

    fn beat(&mut self) {
        self.lines.retain(|line| !line.orders.is_closed());
        for line in &self.lines {
            for (_, product) in line.subscribed.iter().filter(|(name, _)| name == "heartbeat") {
                let last = self.newest(product).unwrap_or(0);
                let beat = json!({
                    "type": "heartbeat", "last_trade_id": last, "product_id": product,
                    "sequence": 1, "time": "2026-11-22T10:00:00.000000Z",
                });
                line.say(beat.to_string());
            }
        }
    }

    /// Does what a client asks for: the answer is everything that it is sent from here on.
    fn hear(&mut self, id: usize, text: &str) {
        let request: Value = serde_json::from_str(text).unwrap();
        self.requests.push(request.clone());
        let Self { lines, books, trades, products, .. } = self;
        let Some(line) = lines.iter_mut().find(|line| line.id == id && !line.is_silent) else {
            return;
        };
        let texts = |name: &str| -> Vec<String> {
            let items = request[name].as_array().into_iter().flatten();
            items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
        };
        let (ids, channels) = (texts("product_ids"), texts("channels"));
        if let Some(bad) = ids.iter().find(|id| !products.contains(*id)) {
            let reason = format!("{bad} is not a valid product");
            let error = json!({"type":"error","message":"Failed to subscribe","reason":reason});
            return line.say(error.to_string());
        }
        let pairs: Vec<(String, String)> = channels
            .iter()
            .flat_map(|channel| ids.iter().map(|id| (channel.clone(), id.clone())))
            .collect();
        let is_new = request["type"] == "subscribe";
        for pair in &pairs {
            if is_new {
                line.subscribed.insert(pair.clone());
            } else {
                line.subscribed.remove(pair);
            }
        }
        let mut sets: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (channel, product) in &line.subscribed {
            let name = if channel == "level2_batch" { "level2_50" } else { channel };
            sets.entry(name).or_default().push(product);
        }
        let sets: Vec<Value> = sets
            .iter()
            .map(|(name, ids)| json!({"name": name, "product_ids": ids, "account_ids": null}))
            .collect();
        line.say(json!({"type": "subscriptions", "channels": sets}).to_string());
        for (channel, product) in pairs.iter().filter(|_| is_new) {
            if channel == "level2_batch"
                && let Some(book) = books.get(product)
            {
                line.say(book.clone());
            }
            let newest = trades.get(product).and_then(BTreeMap::last_key_value);
            if channel == "matches"
                && let Some((id, _)) = newest
            {
                line.say(match_text(product, *id).replace(r#""match""#, r#""last_match""#));
            }
        }
    }

    fn page(&self, product: &str, request: &Request) -> Answer {
        let number = |name| request.query(name).next().and_then(|text| text.parse().ok());
        let limit = number("limit").unwrap_or(1_000).min(1_000);
        let after = number("after").unwrap_or(u64::MAX);
        let trades = self.trades.get(product).into_iter();
        let older = trades.flat_map(|trades| trades.range(..after).rev());
        let page: Vec<_> = older.take(usize::try_from(limit).unwrap()).collect();
        let headers = match (page.first(), page.last()) {
            (Some((newest, _)), Some((oldest, _))) => {
                vec![("CB-BEFORE", newest.to_string()), ("CB-AFTER", oldest.to_string())]
            }
            _ => Vec::new(),
        };
        let page: Vec<&Value> = page.into_iter().map(|(_, trade)| trade).collect();
        Answer::Http(200, headers, json!(page).to_string())
    }
}

impl Site for Desk {
    fn answer(&self, request: &Request) -> Answer {
        let state = self.state.lock();
        if request.header("upgrade").is_some() {
            return state.refusal.map_or(Answer::Upgrade, Answer::status);
        }
        if request.header("user-agent").is_none() {
            return Answer::status(400);
        }
        let path: Vec<&str> = request.path.split('/').skip(1).collect();
        match path[..] {
            ["products"] => {
                let list: Vec<Value> = state
                    .products
                    .iter()
                    .map(|id| json!({"id": id, "status": "online", "trading_disabled": false}))
                    .collect();
                Answer::ok(&json!(list))
            }
            ["products", product, "trades"] => state.page(product, request),
            _ => Answer::status(404),
        }
    }

    fn converse(self: Arc<Self>, socket: Socket) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let (orders, ordered) = mpsc::unbounded_channel();
            let id = {
                let mut state = self.state.lock();
                state.accepted += 1;
                let id = state.accepted;
                let subscribed = BTreeSet::new();
                state.lines.push(Line { id, orders, subscribed, is_silent: false });
                id
            };
            site::follow(socket, ordered, |text| self.state.lock().hear(id, text)).await;
            self.state.lock().lines.retain(|line| line.id != id);
        })
    }
}
