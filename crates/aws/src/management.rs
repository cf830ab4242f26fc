//! Posting through API Gateway's management API, `@connections`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream};
use tokio::time::{self, Instant};

use crate::post::{Post, PostError, Recipient};

/// Posts in flight at the same time from one process.
const CONCURRENCY: usize = 256;

/// `@connections` of the gateways that the recipients name.
#[derive(Debug)]
pub struct Management {
    config: SdkConfig,
    clients: Mutex<HashMap<Arc<str>, Client>>,
    budget: Budget,
}

impl Management {
    /// Posts with the credentials of `config`, at most `posts_per_second`.
    pub fn new(config: SdkConfig, posts_per_second: u32) -> Self {
        Self { config, clients: Mutex::default(), budget: Budget::new(posts_per_second) }
    }

    fn client(&self, endpoint: &Arc<str>) -> Client {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        let client = clients.entry(endpoint.clone()).or_insert_with(|| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(Duration::from_secs(2))
                .operation_timeout(Duration::from_secs(10))
                .build();
            // One quick retry; what still fails goes into the connection's next message.
            let retries = RetryConfig::standard()
                .with_max_attempts(2)
                .with_initial_backoff(Duration::from_millis(50));
            let config = Builder::from(&self.config)
                .endpoint_url(endpoint.as_ref())
                .retry_config(retries)
                .timeout_config(timeouts);
            Client::from_conf(config.build())
        });
        client.clone()
    }

    async fn post_one(&self, recipient: &Recipient, message: Bytes) -> Result<(), PostError> {
        self.budget.spend().await;
        let posted = self
            .client(&recipient.endpoint)
            .post_to_connection()
            .connection_id(recipient.id.as_str())
            .data(Blob::new(message))
            .send()
            .await;
        posted.map(|_| ()).map_err(sort)
    }
}

impl Post for Management {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, PostError)>> {
        let posts = recipients.iter().enumerate().map(move |(index, recipient)| {
            let message = message.clone();
            async move { (index, self.post_one(recipient, message).await) }
        });
        Box::pin(
            stream::iter(posts)
                .buffer_unordered(CONCURRENCY)
                .filter_map(async |(index, posted)| posted.err().map(|error| (index, error)))
                .collect(),
        )
    }

    fn close<'a>(&'a self, recipient: &'a Recipient) -> BoxFuture<'a, Result<(), PostError>> {
        Box::pin(async move {
            let client = self.client(&recipient.endpoint);
            let deleted =
                client.delete_connection().connection_id(recipient.id.as_str()).send().await;
            deleted.map(|_| ()).map_err(sort)
        })
    }
}

/// Sorts by the HTTP status: gateways other than AWS's do not all send the error's type.
fn sort<E>(
    error: SdkError<E, aws_sdk_apigatewaymanagement::config::http::HttpResponse>,
) -> PostError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.raw_response().map(|response| response.status().as_u16()) {
        Some(410) => PostError::Gone,
        Some(413) => PostError::TooLarge,
        Some(429) => PostError::Busy,
        _ => PostError::Failed(Box::new(error)),
    }
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    state: Mutex<(f64, Instant)>,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second.max(1));
        Self { per_second, state: Mutex::new((per_second, Instant::now())) }
    }

    /// Takes one token, and waits for it if need be.
    async fn spend(&self) {
        let wait = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let (tokens, at) = *state;
            let tokens = tokens + now.duration_since(at).as_secs_f64() * self.per_second;
            let tokens = tokens.min(self.per_second) - 1.0;
            *state = (tokens, now);
            Duration::from_secs_f64((-tokens / self.per_second).max(0.0))
        };
        if !wait.is_zero() {
            time::sleep(wait).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_budget_holds_posts_to_its_rate() {
        let budget = Budget::new(100);
        let start = Instant::now();
        for _ in 0..300 {
            budget.spend().await;
        }
        let took = start.elapsed().as_millis();
        assert!((1_990..=2_010).contains(&took), "300 posts at 100 a second took {took} ms");
    }
}
