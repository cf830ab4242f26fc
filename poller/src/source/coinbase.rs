//! The Coinbase Exchange: public market data over its WebSocket feed.
//!
//! Subscribes to the wanted topics, forwards messages byte for byte, keeps the order books of the
//! `level2` topics, and fetches missed trades.

mod book;
mod decimal;
#[cfg(test)]
mod fixtures;
#[cfg(test)]
mod fuzz;
mod level2;
mod liveness;
mod message;
mod product;
#[cfg(test)]
mod recorder;
mod rest;
mod session;
mod subscriptions;
mod tally;
mod trades;
mod upstream;

use std::{collections::HashSet, sync::Arc};

use anyhow::ensure;
use futures_util::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use url::Url;

pub use self::session::{Session, SessionError};
use self::{
    rest::Rest,
    upstream::{NAME, Upstream, keep_catalog},
};
use crate::{feed::Feed, outside::Outside, source::Source};

/// The Coinbase Exchange.
pub struct Coinbase {
    url: Url,
    rest: Rest,
    outside: Outside,
}

impl Coinbase {
    /// Makes the exchange with its WebSocket feed at `url` and its REST interface at `rest_url`,
    /// which rejects requests without a user agent.
    ///
    /// # Errors
    ///
    /// When an address is invalid.
    pub fn new(url: Url, rest_url: Url, outside: Outside) -> anyhow::Result<Self> {
        check(&url, ["wss", "ws"])?;
        check(&rest_url, ["https", "http"])?;
        let rest = Rest::new(rest_url, outside.clone());
        Ok(Self { url, rest, outside })
    }
}

fn check(url: &Url, schemes: [&str; 2]) -> anyhow::Result<()> {
    ensure!(
        schemes.contains(&url.scheme()) && url.has_host(),
        "{url} is not a {} or {} address",
        schemes[0],
        schemes[1],
    );
    Ok(())
}

impl Source for Coinbase {
    fn name(&self) -> &str {
        NAME
    }

    fn run(&self, feed: Feed, shutdown: CancellationToken) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let (online, products) = watch::channel(Arc::new(HashSet::new()));
            let upstream = Upstream::new(
                feed.clone(),
                self.rest.clone(),
                products,
                self.url.to_string(),
                self.outside.clone(),
            );
            tokio::select! {
                () = upstream.run(&shutdown) => {}
                () = keep_catalog(self.rest.clone(), feed, online) => {}
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_addresses_are_rejected_with_a_reason() {
        let url = |text: &str| Url::parse(text).expect("a URL");
        let outside = Outside::real("headwater", &[]).expect("a client");
        let new = |feed, rest| Coinbase::new(url(feed), url(rest), outside.clone());
        let feed = "wss://feed.example";
        let rest = "https://api.example";
        assert!(new(feed, rest).is_ok());
        assert!(new("ws://127.0.0.1:1", "http://127.0.0.1:2/base/").is_ok());
        let cases = [
            (rest, rest, "https://api.example/ is not a wss or ws address"),
            (feed, "ftp://api.example", "ftp://api.example/ is not a https or http address"),
        ];
        for (feed, rest, expected) in cases {
            let error = new(feed, rest).err().expect("an error");
            assert_eq!(error.to_string(), expected);
        }
    }
}
