//! The exchange's side of a WebSocket, for tests.

use std::collections::BTreeMap;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, protocol::Role},
};

use crate::wait::soon;

/// The exchange's side of a connection.
pub struct ExchangePeer<S> {
    /// The WebSocket, for messages that the methods do not cover.
    pub socket: WebSocketStream<S>,
    /// The products that the client is subscribed to, by channel.
    pub subscriptions: BTreeMap<String, Vec<String>>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> ExchangePeer<S> {
    /// Creates the exchange's side of an open WebSocket.
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self { socket, subscriptions: BTreeMap::new() }
    }

    /// Creates the exchange's side of a connection without a handshake.
    pub async fn over(stream: S) -> Self {
        Self::new(WebSocketStream::from_raw_socket(stream, Role::Server, None).await)
    }

    /// Waits for the next message, except pings. Returns `None` when the connection has closed.
    ///
    /// # Panics
    ///
    /// When no message arrives in time.
    pub async fn message(&mut self) -> Option<Message> {
        loop {
            match soon(self.socket.next()).await {
                Some(Ok(Message::Ping(_))) => {}
                Some(Ok(Message::Close(_)) | Err(_)) | None => return None,
                Some(Ok(message)) => return Some(message),
            }
        }
    }

    /// Waits for the next request and returns it as `verb products channels`.
    ///
    /// # Panics
    ///
    /// When another message arrives.
    pub async fn request(&mut self) -> String {
        let message = self.message().await.expect("a request");
        let json: Value = serde_json::from_str(message.to_text().expect("a text")).expect("JSON");
        let list = |name: &str| -> Vec<String> {
            serde_json::from_value(json[name].clone()).expect("a list of names")
        };
        let products = list("product_ids");
        let channels = list("channels");
        let verb = json["type"].as_str().expect("a verb");
        for channel in &channels {
            let subscribed = self.subscriptions.entry(channel.clone()).or_default();
            subscribed.retain(|product| !products.contains(product));
            if verb == "subscribe" {
                subscribed.extend(products.iter().cloned());
            }
        }
        format!("{verb} {} {}", products.join(","), channels.join(","))
    }

    /// Waits for the next request, acknowledges it, and returns it as [`ExchangePeer::request`]
    /// does.
    ///
    /// # Panics
    ///
    /// When another message arrives.
    pub async fn agree(&mut self) -> String {
        let request = self.request().await;
        let channels: Vec<Value> = self
            .subscriptions
            .iter()
            .filter(|(_, products)| !products.is_empty())
            .map(|(name, products)| {
                let name = name.replace("level2_batch", "level2_50");
                json!({"name": name, "product_ids": products, "account_ids": null})
            })
            .collect();
        self.send(&json!({"type": "subscriptions", "channels": channels})).await;
        request
    }

    /// Sends a message.
    ///
    /// # Panics
    ///
    /// When the connection is closed.
    pub async fn send(&mut self, json: &Value) {
        self.socket.send(Message::text(json.to_string())).await.expect("sent");
    }
}
