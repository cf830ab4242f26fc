//! What every source is: something that reads an upstream and publishes on topics.

pub mod coinbase;
pub mod mastodon;

#[cfg(test)]
mod fixtures;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use self::{
    coinbase::Coinbase,
    mastodon::{Mastodon, Timeline},
};
use crate::{config::Options, feed::Feed};

/// A family of sources, which has one leader among all pollers, and its name.
pub type Family = (String, Vec<Arc<dyn Source>>);

/// Makes the sources that the options name. They remember posts for as long as the log does.
///
/// # Errors
///
/// When an address cannot be one of an upstream.
pub fn families(
    options: &Options,
    remembered_for: Duration,
    now: Timestamp,
) -> anyhow::Result<Vec<Family>> {
    let (url, rest_url) = (options.coinbase_url.clone(), &options.coinbase_rest_url);
    let exchange = Coinbase::new(url, rest_url, &options.user_agent).context("bad exchange")?;
    let timeline = Arc::new(Mutex::new(Timeline::new(now, remembered_for)));
    let mut servers: Vec<Arc<dyn Source>> = Vec::new();
    for (index, url) in options.mastodon_servers.0.iter().enumerate() {
        let token = options.mastodon_tokens.of(&host_of(url), index).cloned();
        let server = Mastodon::new(url.clone(), token, &options.user_agent, timeline.clone())
            .with_context(|| format!("bad Mastodon server {url}"))?;
        servers.push(Arc::new(server));
    }
    let mut families = vec![("coinbase".to_owned(), vec![Arc::new(exchange) as Arc<dyn Source>])];
    // A family without sources has nothing to lead.
    if !servers.is_empty() {
        families.push(("mastodon".to_owned(), servers));
    }
    Ok(families)
}

/// What a server is called in tokens and topics: its host, with the port where that is not the
/// scheme's own.
pub fn host_of(url: &url::Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

/// One upstream.
///
/// Two kinds ship: Coinbase, and one for each Mastodon server.
pub trait Source: Send + Sync + 'static {
    /// What the source is called in `system/sources`, such as `coinbase` or `mastodon.social`.
    fn name(&self) -> &str;

    /// Reads the upstream while anything of it is wanted, and publishes on `feed`, until
    /// `shutdown`.
    ///
    /// Whatever goes wrong upstream is reported on the feed and tried again; it is no reason to
    /// return.
    fn run(&self, feed: Feed, shutdown: CancellationToken) -> BoxFuture<'_, ()>;
}
