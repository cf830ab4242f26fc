//! A running exchange that a test or a benchmark controls.

use std::{io, net::SocketAddr, sync::Arc};

use axum::http::StatusCode;
use jiff::Timestamp;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::sync::DropGuard;

use super::{
    channel::Channel,
    messages,
    router::router,
    subscriber,
    trading::{Event, Exchange},
};
use crate::{loopback::LoopbackPort, market::PRODUCTS, wait::until};

/// A running exchange on which only the owner of this value trades.
///
/// It acknowledges subscriptions, sends heartbeats, and responds to REST requests by itself. A trade is
/// sent to the subscribers of its product, and listed by the REST interface. The server stops when this
/// is dropped.
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
        let port = LoopbackPort::bind().await?;
        let address = port.address;
        let exchange = Arc::new(Exchange::scripted(Arc::clone(&port.host)));
        let shutdown = port.serve(router(&exchange));
        exchange.host.tasks.spawn(Arc::clone(&exchange).drive());
        Ok(Self { address, exchange, _shutdown: shutdown })
    }

    /// Returns the address that the server listens on.
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

    /// Makes a trade, streams it as the text that `write` returns for its id, and returns the id.
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

    /// Makes a trade that only the REST interface lists, and returns its id.
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
        // The lock keeps the message in order with trades. Sending fails if there are no clients.
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

    /// Waits until a client is subscribed to a channel of a product.
    ///
    /// # Panics
    ///
    /// When no client subscribes in time.
    pub async fn subscribed(&self, channel: &str, product: &str) {
        let what = format!("a client subscribes to {channel} of {product}");
        until(&what, || self.is_subscribed(channel, product)).await;
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

    /// Sends no more messages on the open connections.
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
