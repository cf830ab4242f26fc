//! The simulated exchange, under the control of a test.

use std::ops::Deref;

use simulator::ExchangeServer;

use crate::until;

/// A running exchange: WebSocket feed and REST interface on one port.
pub struct Exchange(ExchangeServer);

impl Exchange {
    /// Starts an exchange on which only the test trades.
    pub async fn start() -> Self {
        Self(ExchangeServer::start().await.unwrap())
    }

    /// Waits until a client is subscribed to a channel of a product.
    pub async fn subscribed(&self, channel: &str, product: &str) {
        until(&format!("a client subscribes to {channel} of {product}"), async || {
            self.is_subscribed(channel, product).then_some(())
        })
        .await;
    }
}

impl Deref for Exchange {
    type Target = ExchangeServer;

    fn deref(&self) -> &ExchangeServer {
        &self.0
    }
}
