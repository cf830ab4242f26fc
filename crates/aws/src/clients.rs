//! What the AWS SDK needs to know, and the clients made from it.

use std::time::Duration;

use aws_config::{BehaviorVersion, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};

use crate::{management::Management, push::LambdaPush, tables::Tables};

/// The settings of the tables, shared by all programs that open them.
#[derive(Clone, Debug, clap::Args)]
pub struct TableOptions {
    /// What the names of the three tables start with.
    #[arg(long, env = "HEADWATER_TABLE_PREFIX", default_value = "headwater-")]
    pub table_prefix: String,

    /// How long the log keeps events, such as `24h`.
    #[arg(long, env = "HEADWATER_RETENTION", default_value = "24h", value_parser = parse_retention)]
    pub retention: Duration,
}

fn parse_retention(text: &str) -> Result<Duration, String> {
    // A number alone is seconds.
    let retention = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => humantime::parse_duration(text).map_err(|error| error.to_string())?,
    };
    let (least, most) = (Duration::from_mins(1), Duration::from_hours(365 * 24));
    if (least..=most).contains(&retention) {
        Ok(retention)
    } else {
        Err("retention must be between 1min and 365days".to_owned())
    }
}

/// The AWS SDK's configuration and the clients made from it.
#[derive(Clone, Debug)]
pub struct Clients {
    config: SdkConfig,
}

impl Clients {
    /// Reads region, credentials and endpoint as every AWS program does.
    pub async fn from_env() -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(2))
            .operation_attempt_timeout(Duration::from_secs(5))
            .build();
        let config = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts)
            .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(50)))
            .load()
            .await;
        Self { config }
    }

    /// Uses a configuration made elsewhere, such as for an embedded database.
    pub fn from_config(config: SdkConfig) -> Self {
        Self { config }
    }

    /// Opens the tables.
    pub fn tables(&self, options: &TableOptions) -> Tables {
        let client = aws_sdk_dynamodb::Client::new(&self.config);
        Tables::new(client, &options.table_prefix, options.retention)
    }

    /// Posts through `@connections`.
    pub fn management(&self, posts_per_second: u32) -> Management {
        Management::new(self.config.clone(), posts_per_second)
    }

    /// Invokes the Lambda function `push` by this name.
    pub fn push(&self, function: String) -> LambdaPush {
        // One invocation may post for a while, and must not be sent twice in parallel.
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(2))
            .operation_attempt_timeout(Duration::from_secs(65))
            .build();
        let config = aws_sdk_lambda::config::Builder::from(&self.config)
            .timeout_config(timeouts)
            .retry_config(RetryConfig::disabled());
        LambdaPush::new(aws_sdk_lambda::Client::from_conf(config.build()), function)
    }
}
