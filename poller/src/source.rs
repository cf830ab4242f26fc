//! Sources: each reads one upstream and publishes on topics.

pub mod coinbase;
mod http;
pub mod mastodon;

#[cfg(test)]
mod fixtures;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;

/// One upstream.
///
/// Two kinds ship: Coinbase, and one for each Mastodon server.
pub trait Source: Send + Sync + 'static {
    /// Returns the name of the source in `system/sources`, such as `coinbase` or `mastodon.social`.
    fn name(&self) -> &str;

    /// Reads the upstream while any of its topics is wanted, and publishes on `feed`, until
    /// `shutdown`.
    ///
    /// If an upstream fails, reports that on the feed and retries, and does not return.
    fn run(&self, feed: Feed, shutdown: CancellationToken) -> BoxFuture<'_, ()>;
}
