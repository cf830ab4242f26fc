//! The AWS SDK's configuration, and the clients made from it.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig,
    environment::EnvironmentVariableRegionProvider, meta::region::RegionProviderChain,
    profile::ProfileFileRegionProvider, retry::RetryConfig, timeout::TimeoutConfig,
};
use aws_credential_types::Credentials;
use domain::{clock::Clock, duration::parse_duration};
use jiff::Timestamp;

use crate::{
    invoke::Lambda,
    management::Management,
    push::LambdaPush,
    secrets::{self, SecretError, Secrets},
    tables::Tables,
};

/// The options of the tables, shared by all programs that open them.
#[derive(Clone, Debug, clap::Args)]
pub struct TableOptions {
    /// Prefix of the names of the three tables.
    #[arg(long, env = "HEADWATER_TABLE_PREFIX", default_value = "headwater-")]
    pub table_prefix: String,

    /// How long the log retains events, such as `24h`. A plain number is seconds.
    #[arg(long, env = "HEADWATER_RETENTION", default_value = "24h", value_parser = parse_retention)]
    pub retention: Duration,
}

const MIN_RETENTION: Duration = Duration::from_mins(1);
const MAX_RETENTION: Duration = Duration::from_hours(365 * 24);

fn parse_retention(text: &str) -> Result<Duration, String> {
    let retention = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => parse_duration(text)?,
    };
    if (MIN_RETENTION..=MAX_RETENTION).contains(&retention) {
        Ok(retention)
    } else {
        Err("retention must be between 1min and 365days".to_owned())
    }
}

/// How long to wait for `push`: the lane stops waiting earlier, when the time of the job is over.
const PUSH_TIMEOUT: Duration = Duration::from_secs(30);

/// No AWS region is configured.
#[derive(Debug, thiserror::Error)]
#[error("no AWS region is set; set AWS_REGION, such as AWS_REGION=eu-central-1")]
pub struct NoRegion;

/// The AWS SDK's configuration and the clients made from it.
#[derive(Clone, Debug)]
pub struct Clients {
    config: SdkConfig,
}

impl Clients {
    /// Reads the region, the credentials and the endpoint from the same places as every AWS program.
    ///
    /// # Errors
    ///
    /// [`NoRegion`] when no region is configured.
    pub async fn from_env() -> Result<Self, NoRegion> {
        let config = defaults().region(region()).load().await;
        if config.region().is_none() {
            return Err(NoRegion);
        }
        Ok(Self { config })
    }

    /// Connects to an emulator of AWS at `endpoint`, which does not check credentials. The region and the
    /// credentials come from the environment, or are placeholders if it has none.
    pub async fn of_stand_in(endpoint: &str) -> Self {
        let region = region().or_else(Region::from_static("us-east-1"));
        let config = defaults().endpoint_url(endpoint).region(region);
        let has_credentials = std::env::var_os("AWS_ACCESS_KEY_ID").is_some();
        let config = if has_credentials {
            config
        } else {
            config.credentials_provider(Credentials::new("local", "local", None, None, "local"))
        };
        Self { config: config.load().await }
    }

    /// Uses an existing configuration, such as that of an embedded database.
    pub fn from_config(config: SdkConfig) -> Self {
        Self { config }
    }

    /// Opens the tables. Changes of connections get their times from the system's clock.
    pub fn tables(&self, options: &TableOptions) -> Tables {
        self.tables_with_clock(options, Clock::new(Timestamp::now))
    }

    /// Opens the tables. Changes of connections get their times from `clock`.
    pub fn tables_with_clock(&self, options: &TableOptions, clock: Clock) -> Tables {
        let client = aws_sdk_dynamodb::Client::new(&self.config);
        Tables::new(client, &options.table_prefix, options.retention, clock)
    }

    /// Returns the client that posts to connections.
    pub fn management(&self) -> Management {
        Management::new(self.config.clone())
    }

    /// Returns the client that invokes Lambda functions and waits up to `timeout` for each.
    pub fn lambda(&self, timeout: Duration) -> Lambda {
        Lambda::new(&self.config, timeout)
    }

    /// Returns the client that invokes `push`, the Lambda function with this name or ARN.
    pub fn push(&self, function: String) -> LambdaPush {
        LambdaPush::new(self.lambda(PUSH_TIMEOUT), function)
    }

    /// Reads the secret with this name or ARN.
    ///
    /// # Errors
    ///
    /// [`SecretError`] when it cannot be read or is malformed.
    pub async fn secrets(&self, id: &str) -> Result<Secrets, SecretError> {
        secrets::read(&self.config, id).await
    }
}

/// Looks for the region in the environment and in the profile. Does not ask the metadata service, which
/// takes long to time out outside AWS; on AWS, the environment has the region.
fn region() -> RegionProviderChain {
    RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new())
}

fn defaults() -> ConfigLoader {
    let timeouts = TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(2))
        .operation_attempt_timeout(Duration::from_secs(3))
        .build();
    aws_config::defaults(BehaviorVersion::latest())
        .timeout_config(timeouts)
        .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(50)))
}
