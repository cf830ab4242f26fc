//! A server with a history.

use std::net::SocketAddr;

use harness::{Client, ExchangeServer};

/// The topic that has a history.
pub(crate) const MATCHES: &str = "coinbase/matches/BTC-USD";

/// The number of trades in the history.
const TRADES: usize = 2_000;

/// A server, and the subprotocols that its clients offer, among them a token.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) protocols: Vec<String>,
}

impl Target {
    /// Ensures that there is a history.
    pub(crate) async fn fill(&self, exchange: &ExchangeServer) {
        let protocols: Vec<&str> = self.protocols.iter().map(String::as_str).collect();
        let mut client = Client::try_connect(self.address, "/live", &protocols).await.unwrap();
        client.subscribe(&[MATCHES]).await;
        exchange.subscribed("matches", "BTC-USD").await;
        for _ in 0..TRADES {
            exchange.trade("BTC-USD");
        }
        client.events(MATCHES, TRADES).await;
        client.close().await;
    }
}
