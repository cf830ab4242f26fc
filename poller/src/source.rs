//! What every source is: something that reads an upstream and publishes on topics.

pub mod mastodon;

use futures_util::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::feed::Feed;

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
