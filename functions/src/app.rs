//! What all handlers are given: the tables, the way to clients, secrets and limits.

use std::{
    fmt,
    path::{Path, PathBuf},
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
    access::{Limits, Principal},
    connection::ConnectionId,
    policy::{Policies, SetText},
    topic::{Topic, TopicKind},
};
use jiff::Timestamp;
use secrecy::SecretString;
use tracing::warn;

use crate::{
    access::identity::{self, Tokens},
    access::origin::Origins,
    access::rates::Rates,
    access::rules::{InForce, Overrides, Rules, RulesError},
    access::token::{ConnectionTokens, SAFE_SECRET_BYTES, parse_secrets, secrets},
    connection::callback::Callback,
    push::Pusher,
};

/// Where the time comes from: the binaries give the system's clock.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How long the catalogue of an exchange is kept before it is read again.
const CATALOGUE_FOR: Duration = Duration::from_mins(1);

/// Instead of a file of policies: the built-in ones by which everybody sees everything.
const OPEN: &str = "open";

/// The settings that the functions share.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// How many parts the connections are spread over. While that changes, give the new number
    /// first and the old one after it, such as `8,4`, for two hours.
    #[arg(long, env = "HEADWATER_SHARDS", default_value = "1", value_parser = Shards::parse)]
    pub shards: Shards,

    /// Who somebody is.
    #[command(flatten)]
    pub identity: identity::Options,

    /// Secret of the connection tokens, best of 32 random bytes or more; the same for all functions. While
    /// it changes, the new one and the old one after a comma.
    #[arg(long, env = "HEADWATER_CONNECTION_SECRET", hide_env_values = true, value_parser = parse_secrets)]
    pub connection_secret: Option<SecretString>,

    /// File of the Cedar policies that hold until others are put in force, or `open` for those by
    /// which everybody sees everything. Without it, those that are built in; for `headwater up`
    /// without tokens, `open`.
    #[arg(long, env = "HEADWATER_POLICY")]
    pub policy: Option<PathBuf>,

    /// File of the limits that go with the policies, in JSON; without it, those that are built in.
    #[arg(long, env = "HEADWATER_LIMITS")]
    pub limits: Option<PathBuf>,

    /// Which web pages may open a WebSocket: `same` for those from the same host, a comma list of
    /// origins for those, too, or `*` for any. On one machine `same` unless given, on AWS `*`.
    #[arg(long, env = "HEADWATER_ALLOWED_ORIGINS", value_parser = Origins::parse)]
    pub allowed_origins: Option<Origins>,

    /// Base URL of `@connections`, where that is not `https://{domain}/{stage}`, as with a custom
    /// domain. `{domain}`, `{api}` and `{stage}` stand for what the events say.
    #[arg(long, env = "HEADWATER_CALLBACK_URL", default_value_t)]
    pub callback_url: Callback,

    /// Where the page finds the WebSocket, such as `wss://live.example.org`. Without it: `/live` at the
    /// page's own host.
    #[arg(long, env = "HEADWATER_WEBSOCKET_URL", value_parser = parse_websocket_url)]
    pub websocket_url: Option<Arc<str>>,

    /// Most topics that a connection can be subscribed to, for every class, whatever the rules say.
    #[arg(long, env = "HEADWATER_TOPICS_PER_CONNECTION")]
    pub topics_per_connection: Option<usize>,

    /// Messages a second that a connection can send, for every class, whatever the rules say.
    #[arg(long, env = "HEADWATER_MESSAGES_PER_SECOND")]
    pub messages_per_second: Option<u32>,
}

/// Why the rules to begin with cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// A file cannot be read.
    #[error("cannot read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// What is in it is not sound.
    #[error("rules of HEADWATER_POLICY or HEADWATER_LIMITS are not sound")]
    Unsound(#[from] domain::policy::Unsound),
}

impl Options {
    /// Whether everybody sees everything until rules are put in force: where nobody can be told
    /// from anybody else, and nobody asked for rules.
    pub fn is_open(&self) -> bool {
        !self.identity.accepts_tokens() && self.policy.is_none()
    }

    fn overrides(&self) -> Overrides {
        Overrides {
            topics: self.topics_per_connection,
            messages_per_second: self.messages_per_second,
        }
    }

    /// The rules that hold until others are put in force, where `open` is what those are without
    /// any tokens.
    ///
    /// # Errors
    ///
    /// [`PresetError`].
    pub fn preset(&self, open: SetText) -> Result<Policies, PresetError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).map_err(|error| PresetError::Read(path.to_owned(), error))
        };
        let mut text = if self.is_open() { open } else { SetText::preset() };
        match &self.policy {
            Some(name) if name == Path::new(OPEN) => text = SetText::open(),
            Some(path) => text.policies = read(path)?,
            None => {}
        }
        if let Some(path) = &self.limits {
            text.limits = read(path)?;
        }
        Ok(Policies::read(text)?)
    }
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
            let read = |name, text: Option<String>| match text.as_deref().map(parse_secrets) {
                None => Ok(None),
                Some(Ok(secrets)) => Ok(Some(secrets)),
                Some(Err(reason)) => Err(StartError(format!("{name} of secret {id}: {reason}"))),
            };
            if let Some(found) = read("connectionSecret", secrets.connection_secret)? {
                options.connection_secret = Some(found);
            }
            if let Some(found) = read("jwtSecret", secrets.jwt_secret)? {
                options.identity.jwt_secret = Some(found);
            }
        }
        let Some(secret) = options.connection_secret.clone() else {
            let text = "no secret of connection tokens: set HEADWATER_SECRET_ID or \
                        HEADWATER_CONNECTION_SECRET";
            return Err(StartError(text.to_owned()));
        };
        let preset = options.preset(SetText::preset());
        let preset = preset.map_err(|error| StartError::new(&error))?;
        Ok(App::new(tables, post, options, preset, secret))
    }

    /// The function `push`, which needs no secret.
    ///
    /// # Errors
    ///
    /// [`StartError`] when the rules to begin with cannot be had.
    pub fn pusher(&self, clients: &Clients, clock: Clock) -> Result<Pusher, StartError> {
        let post = Arc::new(clients.management(self.posts_per_second));
        let preset = self.options.preset(SetText::preset());
        let preset = preset.map_err(|error| StartError::new(&error))?;
        let tables = clients.tables(&self.tables);
        let rules = Rules::new(tables.control.clone(), preset, self.options.overrides());
        Ok(Pusher::new(&tables, post, Arc::new(rules), clock))
    }
}

/// What all handlers are given.
pub struct App {
    /// The tables.
    pub tables: Tables,
    /// The way to clients.
    pub post: Arc<dyn Post>,
    /// Tokens that clients show.
    pub identities: Tokens,
    /// Tokens that clients are given.
    pub connection_tokens: ConnectionTokens,
    /// Who may see what.
    pub rules: Arc<Rules>,
    /// How often somebody asks.
    pub rates: Rates,
    /// Which web pages are let in.
    pub origins: Origins,
    /// The parts that connections are spread over.
    pub shards: Shards,
    /// Where `@connections` is.
    pub callback_url: Callback,
    /// Where the page finds the WebSocket, if that is not at the page's own host.
    pub websocket_url: Option<Arc<str>>,
    products: Mutex<Option<(Timestamp, Arc<[Product]>)>>,
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

    /// Puts the parts together. The rules are `preset` until others are put in force.
    pub fn new(
        tables: Tables,
        post: Arc<dyn Post>,
        options: Options,
        preset: Policies,
        connection_secret: SecretString,
    ) -> Self {
        let lists = options.identity.jwt_secret.iter().chain([&connection_secret]);
        if lists.flat_map(secrets).any(|secret| secret.len() < SAFE_SECRET_BYTES) {
            warn!("a secret is shorter than {SAFE_SECRET_BYTES} bytes, and can be guessed");
        }
        let overrides = options.overrides();
        Self {
            rules: Arc::new(Rules::new(tables.control.clone(), preset, overrides)),
            rates: Rates::new(tables.quotas.clone()),
            tables,
            post,
            identities: Tokens::new(options.identity),
            connection_tokens: ConnectionTokens::new(connection_secret),
            origins: options.allowed_origins.unwrap_or(Origins::Any),
            shards: options.shards,
            callback_url: options.callback_url,
            websocket_url: options.websocket_url,
            products: Mutex::default(),
        }
    }

    /// The rules in force.
    ///
    /// # Errors
    ///
    /// [`RulesError`] when they are not known; then nothing is permitted.
    pub async fn in_force(&self) -> Result<InForce, RulesError> {
        self.rules.current().await
    }

    /// The limits of somebody.
    ///
    /// # Errors
    ///
    /// [`RulesError`] when the rules are not known.
    pub async fn limits_of(&self, principal: &Principal) -> Result<Limits, RulesError> {
        Ok(self.in_force().await?.limits_of(principal))
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
