//! The sources that the configuration names, by family.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use parking_lot::Mutex;

use crate::{
    config::Options,
    host::host_of,
    outside::Outside,
    source::{
        Source,
        coinbase::Coinbase,
        mastodon::{Mastodon, Timeline},
    },
};

/// A family of sources and its name. All sources of a family have the same leader.
pub type Family = (String, Vec<Arc<dyn Source>>);

/// Makes the sources that the options name. They remember posts for as long as the log retains them.
///
/// # Errors
///
/// When an address is invalid.
pub fn families(
    options: &Options,
    remembered_for: Duration,
    outside: &Outside,
) -> anyhow::Result<Vec<Family>> {
    let (url, rest_url) = (options.coinbase_url.clone(), options.coinbase_rest_url.clone());
    let exchange = Coinbase::new(url, rest_url, outside.clone())
        .context("invalid settings of the exchange")?;
    let timeline = Timeline::new(outside.clock.now(), remembered_for);
    let timeline = Arc::new(Mutex::new(timeline));
    let mut servers: Vec<Arc<dyn Source>> = Vec::new();
    for (index, url) in options.mastodon_servers.0.iter().enumerate() {
        let token = options.mastodon_tokens.of(&host_of(url), index).cloned();
        let server = Mastodon::new(url.clone(), token, timeline.clone(), outside.clone())
            .with_context(|| format!("invalid Mastodon server {url}"))?;
        servers.push(Arc::new(server));
    }
    let mut families: Vec<Family> = vec![("coinbase".to_owned(), vec![Arc::new(exchange)])];
    // A family without sources needs no leader.
    if !servers.is_empty() {
        families.push(("mastodon".to_owned(), servers));
    }
    Ok(families)
}
