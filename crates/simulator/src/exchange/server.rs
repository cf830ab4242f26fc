//! A running exchange that a test or a benchmark controls.

use std::{io, net::SocketAddr, sync::Arc};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use super::{
    channel::Channel,
    messages,
    router::router,
    subscriber,
    trading::{Event, Exchange},
};
use crate::{faults::Switch, host::Host, market::PRODUCTS, serve::serve};

/// A running exchange on which only its script trades.
///
/// By itself it acknowledges subscriptions, sends heartbeats, and answers REST requests. A trade
/// goes to the subscribers of its product and to the REST interface. The server stops when this is
/// dropped.
pub struct ExchangeServer {
    address: SocketAddr,
    exchange: Arc<Exchange>,
    _shutdown: DropGuard,
}

impl ExchangeServer {
    /// Starts an exchange on a free loopback port.
    ///
    /// # Errors
    ///
    /// When no port can be bound.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let tasks = TaskTracker::new();
        let shutdown = CancellationToken::new();
        let host = Host::new(1, Switch::new(&[]), tasks.clone(), shutdown.clone());
        let exchange = Arc::new(Exchange::scripted(Arc::new(host)));
        serve(listener, router(&exchange), &tasks, &shutdown);
        tasks.spawn(Arc::clone(&exchange).drive());
        Ok(Self { address, exchange, _shutdown: shutdown.drop_guard() })
    }

    /// Returns the address that it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the base of the WebSocket feed.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Returns the base of the REST interface.
    pub fn rest_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Makes a trade, streams it, and returns its id.
    ///
    /// # Panics
    ///
    /// When the product is not listed.
    pub fn trade(&self, product: &str) -> u64 {
        let market = market(product);
        let mut state = self.exchange.state();
        let trade = state.markets.record(market, Timestamp::now());
        let text = messages::matched("match", &PRODUCTS[market], &trade);
        self.exchange.publish(&mut state, Channel::Matches, market, Some(trade.id), text);
        trade.id
    }

    /// Makes a trade, streams it as the text that `write` makes of its id, and returns the id.
    ///
    /// # Panics
    ///
    /// When the product is not listed.
    pub fn trade_as(&self, product: &str, write: impl FnOnce(u64) -> String) -> u64 {
        let market = market(product);
        let mut state = self.exchange.state();
        let id = state.markets.record(market, Timestamp::now()).id;
        self.exchange.publish(&mut state, Channel::Matches, market, Some(id), write(id));
        id
    }

    /// Makes a trade that only the REST interface knows, and returns its id.
    ///
    /// # Panics
    ///
    /// When the product is not listed.
    pub fn trade_unstreamed(&self, product: &str) -> u64 {
        self.exchange.state().markets.record(market(product), Timestamp::now()).id
    }

    /// Returns the id of a product's newest trade, or the id before its first.
    ///
    /// # Panics
    ///
    /// When the product is not listed.
    pub fn newest_trade(&self, product: &str) -> u64 {
        let state = self.exchange.state();
        let market = &state.markets.all[market(product)];
        market.trades.back().map_or(market.product.first_trade.saturating_sub(1), |trade| trade.id)
    }

    /// Sends a text to every client.
    pub fn send(&self, text: impl Into<String>) {
        self.send_message(Message::text(text.into()));
    }

    /// Sends bytes to every client.
    pub fn send_binary(&self, bytes: &[u8]) {
        self.send_message(Message::binary(bytes.to_vec()));
    }

    fn send_message(&self, message: Message) {
        // Under the lock, so that it stays in order with trades. Without clients there is no
        // receiver.
        let _state = self.exchange.state();
        let _ = self.exchange.events.send(Event::Sent(message));
    }

    /// Sets the snapshot that is sent to a client when it subscribes to the book of a product.
    ///
    /// # Panics
    ///
    /// When the product is not listed.
    pub fn set_book(&self, product: &str, snapshot: &str) {
        let market = market(product);
        let mut state = self.exchange.state();
        state.books.get_or_insert_default().insert(market, snapshot.to_owned());
    }

    /// Returns whether a client is subscribed to a channel of a product.
    pub fn is_subscribed(&self, channel: &str, product: &str) -> bool {
        let name = if channel == "level2_batch" { "level2_50" } else { channel };
        self.exchange.host.stats.is_subscribed(&format!("{name}/{product}"))
    }

    /// Returns how many clients have connected so far.
    pub fn accepted(&self) -> usize {
        let accepted = self.exchange.host.stats.accepted.load(std::sync::atomic::Ordering::Relaxed);
        usize::try_from(accepted).unwrap_or(usize::MAX)
    }

    /// Returns how many REST requests have arrived so far.
    pub fn rest_requests(&self) -> u64 {
        self.exchange.host.stats.requests.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// Returns the JSON messages that clients have sent.
    pub fn requests(&self) -> Vec<Value> {
        let received = self.exchange.host.received();
        received.iter().filter_map(|text| serde_json::from_str(text).ok()).collect()
    }

    /// Cuts all connections without a close frame.
    pub fn drop_connections(&self) {
        self.exchange.host.drop_connections();
    }

    /// Sends nothing more on the connections that are open.
    pub fn silence_connections(&self) {
        self.exchange.host.switch.silence_connections();
    }

    /// Rejects handshakes with this status, or accepts them again.
    pub fn reject_handshakes(&self, status: Option<StatusCode>) {
        self.exchange.state().rejection = status;
    }
}

fn market(product: &str) -> usize {
    subscriber::product(product).expect("a product that the exchange lists")
}
