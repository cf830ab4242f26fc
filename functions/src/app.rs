//! What all handlers are given: the tables, the way to clients, secrets and limits.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws::{
    clients::{Clients, TableOptions},
    connections::{Shard, Shards},
    control::Product,
    error::{Chain, StoreError},
    post::Post,
    settings::explain,
    tables::Tables,
};
use clap::{CommandFactory as _, Parser};
use domain::{
    access::Limits,
    connection::ConnectionId,
    topic::{Topic, TopicKind},
};
use jiff::Timestamp;
use lru::LruCache;
use secrecy::{ExposeSecret as _, SecretString};
use tracing::warn;

use crate::{
    callback::Callback,
    push::Pusher,
    token::{ConnectionTokens, Jwt, SAFE_SECRET_BYTES},
};

/// Where the time comes from: the binaries give the system's clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long the catalogue of an exchange is kept before it is read again.
const CATALOGUE_FOR: Duration = Duration::from_mins(1);

/// Connections whose message rate is remembered; API Gateway gives one environment far fewer.
const RATES: usize = 100_000;

/// The settings that the functions share.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// How many parts the connections are spread over. While that changes, give the new number
    /// first and the old one after it, such as `8,4`, for two hours.
    #[arg(long, env = "HEADWATER_SHARDS", default_value = "1", value_parser = Shards::parse)]
    pub shards: Shards,

    /// Shared secret of the HS256 tokens that clients show, best of 32 random bytes or more. Without it every
    /// token is refused and everybody is anonymous.
    #[arg(long, env = "HEADWATER_JWT_SECRET", hide_env_values = true, value_parser = parse_secret)]
    pub jwt_secret: Option<SecretString>,

    /// Secret of the connection tokens, best of 32 random bytes or more; the same for all functions.
    #[arg(long, env = "HEADWATER_CONNECTION_SECRET", hide_env_values = true, value_parser = parse_secret)]
    pub connection_secret: Option<SecretString>,

    /// Base URL of `@connections`, where that is not `https://{domain}/{stage}`, as with a custom
    /// domain. `{domain}`, `{api}` and `{stage}` stand for what the events say.
    #[arg(long, env = "HEADWATER_CALLBACK_URL", default_value_t)]
    pub callback_url: Callback,

    /// Where the page finds the WebSocket, such as `wss://live.example.org`. Without it: `/live` at the
    /// page's own host.
    #[arg(long, env = "HEADWATER_WEBSOCKET_URL", value_parser = parse_websocket_url)]
    pub websocket_url: Option<Arc<str>>,

    /// Most topics that a connection can be subscribed to.
    #[arg(long, env = "HEADWATER_TOPICS_PER_CONNECTION", default_value_t = Limits::default().topics)]
    pub topics_per_connection: usize,

    /// Messages a second that a connection can send.
    #[arg(long, env = "HEADWATER_MESSAGES_PER_SECOND", default_value_t = Limits::default().messages_per_second)]
    pub messages_per_second: u32,
}

fn parse_secret(text: &str) -> Result<SecretString, String> {
    if text.is_empty() {
        return Err("the secret is empty".to_owned());
    }
    Ok(SecretString::from(text))
}

fn parse_websocket_url(text: &str) -> Result<Arc<str>, String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    match url.scheme_str() {
        Some("ws" | "wss") if url.host().is_some() => Ok(text.into()),
        _ => Err("not a ws: or wss: URL".to_owned()),
    }
}

/// The settings of a Lambda function.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Environment {
    /// What all functions have.
    #[command(flatten)]
    pub options: Options,

    /// The tables.
    #[command(flatten)]
    pub tables: TableOptions,

    /// Most posts a second from one environment, under the account's quota of 10,000.
    #[arg(long, env = "HEADWATER_POSTS_PER_SECOND", default_value_t = 5_000,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub posts_per_second: u32,

    /// Name or ARN of a secret in AWS Secrets Manager, a JSON object with `connectionSecret` and
    /// `jwtSecret`. What it has takes the place of the two settings of that name.
    #[arg(long, env = "HEADWATER_SECRET_ID")]
    pub secret_id: Option<String>,
}

#[derive(Debug, Parser)]
#[command(name = "headwater")]
struct Cli {
    #[command(flatten)]
    environment: Environment,
}

/// Why a function cannot start: one line that names what is missing or has a bad value.
#[derive(thiserror::Error)]
#[error("{0}")]
pub struct StartError(String);

/// `main` shows errors this way.
impl fmt::Debug for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl StartError {
    fn new(error: &(dyn std::error::Error + 'static)) -> Self {
        Self(Chain(error).to_string())
    }
}

impl Environment {
    /// Reads the environment of the process.
    ///
    /// # Errors
    ///
    /// [`StartError`] that names the variable which has a bad value.
    pub fn read() -> Result<Self, StartError> {
        let cli = Cli::try_parse_from(["headwater"]).map_err(|error| {
            let told = explain(&Cli::command(), &error);
            StartError(told.unwrap_or_else(|| error.to_string()))
        })?;
        Ok(cli.environment)
    }

    /// What the handlers behind the two APIs are given.
    ///
    /// # Errors
    ///
    /// [`StartError`] when there is no secret of connection tokens, or it cannot be read.
    pub async fn app(self, clients: &Clients) -> Result<App, StartError> {
        let tables = clients.tables(&self.tables);
        let post = Arc::new(clients.management(self.posts_per_second));
        let mut options = self.options;
        if let Some(id) = &self.secret_id {
            let secrets = clients.secrets(id).await.map_err(|error| StartError::new(&error))?;
            options.connection_secret = secrets.connection_secret.map(SecretString::from);
            options.jwt_secret = secrets.jwt_secret.map(SecretString::from);
        }
        let Some(secret) = options.connection_secret.clone() else {
            let text = "no secret of connection tokens: set HEADWATER_SECRET_ID or \
                        HEADWATER_CONNECTION_SECRET";
            return Err(StartError(text.to_owned()));
        };
        Ok(App::new(tables, post, options, secret))
    }

    /// The function `push`, which needs no secret.
    pub fn pusher(&self, clients: &Clients, clock: Clock) -> Pusher {
        let post = Arc::new(clients.management(self.posts_per_second));
        Pusher::new(&clients.tables(&self.tables), post, clock)
    }
}

/// What all handlers are given.
pub struct App {
    /// The tables.
    pub tables: Tables,
    /// The way to clients.
    pub post: Arc<dyn Post>,
    /// Tokens that clients show.
    pub jwt: Jwt,
    /// Tokens that clients are given.
    pub connection_tokens: ConnectionTokens,
    /// What one connection may use.
    pub limits: Limits,
    /// The parts that connections are spread over.
    pub shards: Shards,
    /// Where `@connections` is.
    pub callback_url: Callback,
    /// Where the page finds the WebSocket, if that is not at the page's own host.
    pub websocket_url: Option<Arc<str>>,
    products: Mutex<Option<(Timestamp, Arc<[Product]>)>>,
    rates: Mutex<LruCache<ConnectionId, Tokens>>,
}

/// What is left of a connection's message rate.
#[derive(Clone, Copy)]
struct Tokens {
    left: f64,
    at: Timestamp,
}

impl App {
    /// Puts together what a Lambda function behind an API needs, from its environment.
    ///
    /// # Errors
    ///
    /// [`StartError`] that names what is missing or has a bad value.
    pub async fn from_env() -> Result<Self, StartError> {
        let environment = Environment::read()?;
        let clients = Clients::from_env().await.map_err(|error| StartError::new(&error))?;
        environment.app(&clients).await
    }

    /// Puts the parts together.
    pub fn new(
        tables: Tables,
        post: Arc<dyn Post>,
        options: Options,
        connection_secret: SecretString,
    ) -> Self {
        let secrets = options.jwt_secret.iter().chain([&connection_secret]);
        if secrets.map(|it| it.expose_secret().len()).any(|bytes| bytes < SAFE_SECRET_BYTES) {
            warn!("a secret is shorter than {SAFE_SECRET_BYTES} bytes, and can be guessed");
        }
        Self {
            tables,
            post,
            jwt: Jwt::new(options.jwt_secret),
            connection_tokens: ConnectionTokens::new(connection_secret),
            limits: Limits {
                topics: options.topics_per_connection,
                messages_per_second: options.messages_per_second,
            },
            shards: options.shards,
            callback_url: options.callback_url,
            websocket_url: options.websocket_url,
            products: Mutex::default(),
            // A cache with a bound takes its memory at once.
            rates: Mutex::new(LruCache::unbounded()),
        }
    }

    /// The shard of a connection that opens.
    pub fn shard_of_new(&self, id: &ConnectionId) -> Shard {
        self.shards.of_new(id)
    }

    /// The shard where the item of a connection is, or would be.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn shard_of(&self, id: &ConnectionId) -> Result<Shard, StoreError> {
        let newest = self.shards.of_new(id);
        for shard in self.shards.of_old(id) {
            if self.shards.is_settled() || self.tables.connections.get(shard, id).await?.is_some() {
                return Ok(shard);
            }
        }
        Ok(newest)
    }

    /// Whether a connection may send another message at `now`.
    pub fn may_send(&self, id: &ConnectionId, now: Timestamp) -> bool {
        let rate = f64::from(self.limits.messages_per_second);
        let burst = rate * 2.0;
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.len() >= RATES {
            rates.pop_lru();
        }
        let tokens = rates.get_or_insert_mut(id.clone(), || Tokens { left: burst, at: now });
        let passed = now.duration_since(tokens.at).as_secs_f64().max(0.0);
        tokens.left = (tokens.left + passed * rate).min(burst);
        tokens.at = now;
        let may = tokens.left >= 1.0;
        if may {
            tokens.left -= 1.0;
        }
        may
    }

    /// The products of Coinbase; empty before the poller has read them for the first time.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn products(&self, now: Timestamp) -> Result<Arc<[Product]>, StoreError> {
        let cached = self.products.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((at, products)) = cached
            && now.duration_since(at).unsigned_abs() < CATALOGUE_FOR
        {
            return Ok(products);
        }
        let products: Arc<[Product]> =
            self.tables.control.products("coinbase").await?.unwrap_or_default().into();
        if !products.is_empty() {
            let mut cached = self.products.lock().unwrap_or_else(PoisonError::into_inner);
            *cached = Some((now, products.clone()));
        }
        Ok(products)
    }

    /// For a topic of a pair that the exchange does not have, the names nearest to it; `None` for
    /// any other topic, and while the catalogue is not known.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn nearest_to_unknown(
        &self,
        topic: &Topic,
        now: Timestamp,
    ) -> Result<Option<Vec<String>>, StoreError> {
        match topic.kind() {
            TopicKind::Ticker | TopicKind::Matches | TopicKind::Level2 => {}
            TopicKind::Public
            | TopicKind::Server
            | TopicKind::Tag
            | TopicKind::Lang
            | TopicKind::System => return Ok(None),
        }
        let pair = topic.key().unwrap_or_default();
        let products = self.products(now).await?;
        if products.is_empty() || products.iter().any(|product| product.id == pair) {
            return Ok(None);
        }
        let mut near: Vec<_> = products
            .iter()
            .map(|product| (strsim::damerau_levenshtein(pair, &product.id), &product.id))
            .filter(|(distance, _)| *distance <= 3)
            .collect();
        near.sort();
        Ok(Some(near.into_iter().take(5).map(|(_, id)| id.clone()).collect()))
    }
}
