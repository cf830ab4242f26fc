//! Posting through API Gateway's management API, `@connections`.

use std::{
    collections::HashMap,
    error::Error as StdError,
    io,
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
use tracing::warn;

use crate::post::{Post, PostError, Recipient};

/// Posts in flight at the same time from one process.
const CONCURRENCY: usize = 256;

/// How soon a gateway that refused is tried again.
const REFUSED_FOR: Duration = Duration::from_secs(1);

/// After how long a gateway that nobody listens at has lost its connections. AWS's own is always
/// there; one of ours may have died, and its clients have connected to another.
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// `@connections` of the gateways that the recipients name.
#[derive(Debug)]
pub struct Management {
    config: SdkConfig,
    gateways: Mutex<HashMap<Arc<str>, Arc<Gateway>>>,
    budget: Budget,
}

/// A gateway's management API.
#[derive(Debug)]
struct Gateway {
    client: Client,
    refusal: Mutex<Option<Refusal>>,
}

/// Since when nobody listens at a gateway's address, and when that was seen last.
#[derive(Clone, Copy, Debug)]
struct Refusal {
    since: Instant,
    seen: Instant,
}

impl Management {
    /// Posts with the credentials of `config`, at most `posts_per_second`.
    pub fn new(config: SdkConfig, posts_per_second: u32) -> Self {
        Self { config, gateways: Mutex::default(), budget: Budget::new(posts_per_second) }
    }

    fn gateway(&self, endpoint: &Arc<str>) -> Arc<Gateway> {
        let mut gateways = self.gateways.lock().unwrap_or_else(PoisonError::into_inner);
        let gateway = gateways.entry(endpoint.clone()).or_insert_with(|| {
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
            let client = Client::from_conf(config.build());
            Arc::new(Gateway { client, refusal: Mutex::default() })
        });
        gateway.clone()
    }

    async fn post_one(&self, recipient: &Recipient, message: Bytes) -> Result<(), PostError> {
        let gateway = self.gateway(&recipient.endpoint);
        gateway.is_there(Instant::now())?;
        self.budget.spend().await;
        let posted = gateway
            .client
            .post_to_connection()
            .connection_id(recipient.id.as_str())
            .data(Blob::new(message))
            .send()
            .await;
        gateway.learn(&recipient.endpoint, posted.map(|_| ()).map_err(sort))
    }
}

impl Gateway {
    /// Fails at once while nobody listens at the gateway's address.
    fn is_there(&self, now: Instant) -> Result<(), PostError> {
        match *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) {
            Some(refusal) if now - refusal.seen < REFUSED_FOR => Err(refusal.error()),
            Some(_) | None => Ok(()),
        }
    }

    /// Notes whether somebody listens at the gateway's address, and returns the result, which a
    /// refusal is no longer part of.
    fn learn(&self, endpoint: &str, result: Result<(), PostError>) -> Result<(), PostError> {
        let now = Instant::now();
        let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Err(PostError::Failed(error)) if is_refusal(error.as_ref()) => {
                if refusal.is_none() {
                    warn!(endpoint, "nobody listens at the gateway's address");
                }
                let since = refusal.map_or(now, |refusal| refusal.since);
                let seen = Refusal { since, seen: now };
                *refusal = Some(seen);
                Err(seen.error())
            }
            result => {
                *refusal = None;
                result
            }
        }
    }
}

impl Refusal {
    fn error(&self) -> PostError {
        if self.seen - self.since < DEAD_AFTER { PostError::Busy } else { PostError::Gone }
    }
}

/// Whether the other machine answered that nobody listens there.
fn is_refusal(error: &(dyn StdError + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        || error.source().is_some_and(is_refusal)
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
            let gateway = self.gateway(&recipient.endpoint);
            gateway.is_there(Instant::now())?;
            let delete = gateway.client.delete_connection();
            let deleted = delete.connection_id(recipient.id.as_str()).send().await;
            gateway.learn(&recipient.endpoint, deleted.map(|_| ()).map_err(sort))
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
    use aws_config::BehaviorVersion;

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

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_nobody_listens_at_has_lost_its_connections_in_the_end() {
        let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        let gateway = Management::new(config, 1).gateway(&"http://127.0.0.1:9".into());
        let refused =
            || Err(PostError::Failed(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))));
        let start = Instant::now();
        assert!(matches!(gateway.learn("gateway", refused()), Err(PostError::Busy)));
        assert!(matches!(gateway.is_there(start), Err(PostError::Busy)), "nobody asks at once");
        assert!(gateway.is_there(start + REFUSED_FOR).is_ok(), "somebody asks again");

        time::advance(DEAD_AFTER).await;
        assert!(matches!(gateway.learn("gateway", refused()), Err(PostError::Gone)));
        assert!(matches!(gateway.is_there(Instant::now()), Err(PostError::Gone)));

        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let broken = gateway.learn("gateway", Err(PostError::Failed(Box::new(reset))));
        assert!(matches!(broken, Err(PostError::Failed(_))), "somebody is there");
        assert!(gateway.is_there(Instant::now()).is_ok());
    }
}
