//! The state that the handlers behind the two APIs share.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use aws::{error::StoreError, tables::Tables};
use domain::{
    connection::ConnectionId,
    outlet::Outlet,
    rules::RuleSet,
    shard::{Shard, Shards},
};
use jiff::Timestamp;
use secrecy::SecretString;
use tracing::warn;

use crate::{
    access::{
        history::Histories,
        identity::Tokens,
        origin::Origins,
        rates::Rates,
        rules::Rules,
        secrets::{SAFE_SECRET_BYTES, secrets},
        token::ConnectionTokens,
    },
    catalog::Catalog,
    connection::callback::Callback,
    log_id::CachedLogId,
    settings::Options,
};

/// How often a function notes in which shards it opens connections. A note is valid for a day longer than this,
/// and no connection lasts as long.
const NOTE_SHARDS_EVERY_SECONDS: i64 = 24 * 60 * 60;

/// The state that the handlers behind the two APIs share.
pub struct App {
    /// The tables.
    pub tables: Tables,
    /// Posts messages to connections.
    pub outlet: Arc<dyn Outlet>,
    /// Checks the tokens that identify clients.
    pub identities: Tokens,
    /// Makes and checks connection tokens.
    pub connection_tokens: ConnectionTokens,
    /// The rules in force.
    pub rules: Arc<Rules>,
    /// Limits how often a client can send requests.
    pub rates: Rates,
    /// Limits how many bytes of history a client is given.
    pub histories: Histories,
    /// The web pages that can open a WebSocket.
    pub origins: Origins,
    /// The shards that connections are spread over.
    pub shards: Shards,
    /// When this process last noted these shards for the pollers, in Unix seconds.
    shards_noted_at: AtomicI64,
    /// The base URL of `@connections`.
    pub callback_url: Callback,
    /// The URL of the WebSocket for the web page, if it is not on the page's own host.
    pub websocket_url: Option<Arc<str>>,
    /// The products of the exchange.
    pub catalog: Catalog,
    /// The id of the log.
    pub log_id: CachedLogId,
}

impl App {
    /// Builds the state. The rules are `preset` until others are put in force.
    pub fn new(
        tables: Tables,
        outlet: Arc<dyn Outlet>,
        options: Options,
        preset: RuleSet,
        connection_secret: SecretString,
    ) -> Self {
        let lists = options.identity.jwt_secret.iter().chain([&connection_secret]);
        if lists.flat_map(secrets).any(|secret| secret.len() < SAFE_SECRET_BYTES) {
            warn!("a secret is shorter than {SAFE_SECRET_BYTES} bytes and can be guessed");
        }
        let overrides = options.overrides();
        Self {
            rules: Arc::new(Rules::new(tables.control.clone(), preset, overrides)),
            rates: Rates::new(tables.quotas.clone()),
            histories: Histories::new(),
            catalog: Catalog::new(tables.control.clone()),
            log_id: CachedLogId::new(tables.control.clone()),
            tables,
            outlet,
            identities: Tokens::new(options.identity),
            connection_tokens: ConnectionTokens::new(connection_secret),
            origins: options.allowed_origins.unwrap_or(Origins::Any),
            shards: options.shards,
            shards_noted_at: AtomicI64::new(i64::MIN),
            callback_url: options.callback_url,
            websocket_url: options.websocket_url,
        }
    }

    /// Notes for the pollers in which shards this function opens connections, unless it has done so within a
    /// day. They follow these shards, even if their own setting has fewer.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn note_shards(&self, now: Timestamp) -> Result<(), StoreError> {
        let noted_at = self.shards_noted_at.load(Ordering::Relaxed);
        if now.as_second().saturating_sub(noted_at) >= NOTE_SHARDS_EVERY_SECONDS {
            self.tables.control.put_shards(self.shards.all().end, now).await?;
            self.shards_noted_at.store(now.as_second(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// Returns the shard that holds, or would hold, the item of a connection.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn shard_of(&self, id: &ConnectionId) -> Result<Shard, StoreError> {
        for shard in self.shards.of_old(id) {
            if self.shards.is_settled() || self.tables.connections.get(shard, id).await?.is_some() {
                return Ok(shard);
            }
        }
        Ok(self.shards.of_new(id))
    }
}
