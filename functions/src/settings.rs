//! The settings of the functions.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aws::clients::TableOptions;
use domain::{
    rules::{InvalidSet, RuleSet, SetText},
    shard::Shards,
};
use secrecy::SecretString;

use crate::{
    access::{identity, origin::Origins, rules::Overrides, secrets::parse_secrets},
    connection::callback::Callback,
};

/// The value of `HEADWATER_POLICY` that selects the built-in rules without restrictions.
const OPEN: &str = "open";

/// The settings that the functions share.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Number of shards that connections are spread over. To change it, set the new number followed
    /// by the old one, such as `8,4`, for two hours.
    #[arg(long, env = "HEADWATER_SHARDS", default_value = "1", value_parser = Shards::parse)]
    pub shards: Shards,

    /// How tokens are checked.
    #[command(flatten)]
    pub identity: identity::Options,

    /// Secret that signs connection tokens, at least 32 random bytes. All functions need the same
    /// one. To rotate it, set the new secret followed by a comma and the old one.
    #[arg(long, env = "HEADWATER_CONNECTION_SECRET", hide_env_values = true, value_parser = parse_secrets)]
    pub connection_secret: Option<SecretString>,

    /// File of Cedar policies that apply until other rules are put in force, or `open` to permit
    /// everything. By default the built-in policies apply; `headwater up` without tokens uses `open`.
    #[arg(long, env = "HEADWATER_POLICY")]
    pub policy: Option<PathBuf>,

    /// JSON file of the limits that belong to the policies. By default the built-in limits apply.
    #[arg(long, env = "HEADWATER_LIMITS")]
    pub limits: Option<PathBuf>,

    /// Web pages that can open a WebSocket: `same` for pages from the same host, a comma-separated
    /// list of origins to add to those, or `*` for any. The default is `same` on one machine and `*`
    /// on AWS.
    #[arg(long, env = "HEADWATER_ALLOWED_ORIGINS", value_parser = Origins::parse)]
    pub allowed_origins: Option<Origins>,

    /// Base URL of `@connections` if it differs from `https://{domain}/{stage}`, as it does with a
    /// custom domain. `{domain}`, `{api}` and `{stage}` are replaced by the values in the events.
    #[arg(long, env = "HEADWATER_CALLBACK_URL", default_value_t)]
    pub callback_url: Callback,

    /// URL of the WebSocket for the web page, such as `wss://live.example.org`. By default the page
    /// uses `/live` on its own host.
    #[arg(long, env = "HEADWATER_WEBSOCKET_URL", value_parser = parse_websocket_url)]
    pub websocket_url: Option<Arc<str>>,

    /// Maximum number of topics per connection, for every class; overrides the limits of the rules.
    #[arg(long, env = "HEADWATER_TOPICS_PER_CONNECTION")]
    pub topics_per_connection: Option<usize>,

    /// Maximum number of messages per second from a connection, for every class; overrides the limits
    /// of the rules.
    #[arg(long, env = "HEADWATER_MESSAGES_PER_SECOND")]
    pub messages_per_second: Option<u32>,
}

/// The settings of a Lambda function.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Environment {
    /// The settings that the functions share.
    #[command(flatten)]
    pub options: Options,

    /// The tables.
    #[command(flatten)]
    pub tables: TableOptions,

    /// Name or ARN of a secret in AWS Secrets Manager: a JSON object with `connectionSecret` and
    /// `jwtSecret`, which override the settings of the same names.
    #[arg(long, env = "HEADWATER_SECRET_ID")]
    pub secret_id: Option<String>,
}

/// Why the initial rules could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum PresetError {
    /// A file could not be read.
    #[error("could not read {0}")]
    Read(PathBuf, #[source] std::io::Error),
    /// The rules are not valid.
    #[error("the rules in HEADWATER_POLICY or HEADWATER_LIMITS are not valid")]
    Invalid(#[from] InvalidSet),
}

impl Options {
    /// Returns whether everything is permitted until rules are put in force. This is the case if no tokens
    /// are accepted, so that all clients are anonymous, and if no policies are configured.
    pub fn is_open(&self) -> bool {
        !self.identity.accepts_tokens() && self.policy.is_none()
    }

    /// Returns the rules that apply until others are put in force. They are based on `open` if
    /// [`Options::is_open`].
    ///
    /// # Errors
    ///
    /// [`PresetError`] when a file cannot be read or is not valid.
    pub fn preset(&self, open: SetText) -> Result<RuleSet, PresetError> {
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
        Ok(RuleSet::read(text)?)
    }

    /// Returns the limits that override those of the rules.
    pub(crate) fn overrides(&self) -> Overrides {
        Overrides {
            topics: self.topics_per_connection,
            messages_per_second: self.messages_per_second,
        }
    }
}

fn parse_websocket_url(text: &str) -> Result<Arc<str>, String> {
    let url: http::Uri = text.parse().map_err(|error| format!("{error}"))?;
    match url.scheme_str() {
        Some("ws" | "wss") if url.host().is_some() => Ok(text.into()),
        _ => Err("not a ws: or wss: URL".to_owned()),
    }
}
