//! Posting to connections through API Gateway's management API, `@connections`.

use std::{collections::HashMap, error::Error as StdError, io, sync::Arc, time::Duration};

use aws_config::SdkConfig;
use aws_sdk_apigatewaymanagement::{
    Client,
    config::{Builder, retry::RetryConfig, timeout::TimeoutConfig},
    error::{ProvideErrorMetadata, SdkError},
    primitives::Blob,
};
use bytes::Bytes;
use domain::{
    connection::Recipient,
    outlet::{Outlet, OutletError},
};
use futures_util::{StreamExt, future::BoxFuture, stream};
use parking_lot::Mutex;
use tokio::{sync::Semaphore, time::Instant};
use tracing::warn;

/// Maximum number of concurrent posts of one process. Each can take a file descriptor.
const CONCURRENCY: usize = 256;

/// How long one attempt to post can take. A job of `push` has to report in time even if posts hang.
const ATTEMPT_TIMEOUT: Duration = Duration::from_millis(700);

/// How long a post can take with its retry. That is less than a job has.
const POST_TIMEOUT: Duration = Duration::from_millis(1_200);

/// How long a gateway that refused a connection is not contacted again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a gateway must refuse connections until its clients count as gone. AWS's own gateway is
/// always reachable. An emulated gateway may have exited; then its clients reconnect elsewhere.
const DEAD_AFTER: Duration = Duration::from_secs(15);

/// The management APIs of all gateways that recipients name.
#[derive(Debug)]
pub struct Management {
    config: SdkConfig,
    gateways: Mutex<HashMap<Arc<str>, Arc<Gateway>>>,
    /// Limits the concurrent posts of all callers together.
    permits: Semaphore,
}

/// A gateway's management API.
#[derive(Debug)]
struct Gateway {
    client: Client,
    outage: Mutex<Option<Outage>>,
}

/// A period in which nothing listens at a gateway's address.
#[derive(Clone, Copy, Debug)]
struct Outage {
    /// When a connection was first refused.
    since: Instant,
    /// When a connection was last refused.
    seen: Instant,
}

impl Management {
    /// Posts with the credentials of `config`.
    pub fn new(config: SdkConfig) -> Self {
        Self { config, gateways: Mutex::default(), permits: Semaphore::new(CONCURRENCY) }
    }

    fn gateway(&self, endpoint: &Arc<str>) -> Arc<Gateway> {
        let mut gateways = self.gateways.lock();
        let gateway = gateways.entry(endpoint.clone()).or_insert_with(|| {
            let timeouts = TimeoutConfig::builder()
                .connect_timeout(ATTEMPT_TIMEOUT)
                .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                .operation_timeout(POST_TIMEOUT)
                .build();
            // One quick retry. If that fails too, the events go into the connection's next message.
            let retries = RetryConfig::standard()
                .with_max_attempts(2)
                .with_initial_backoff(Duration::from_millis(50));
            let config = Builder::from(&self.config)
                .endpoint_url(endpoint.as_ref())
                .retry_config(retries)
                .timeout_config(timeouts);
            let client = Client::from_conf(config.build());
            Arc::new(Gateway { client, outage: Mutex::default() })
        });
        gateway.clone()
    }

    async fn post_one(&self, recipient: &Recipient, message: Bytes) -> Result<(), OutletError> {
        let gateway = self.gateway(&recipient.endpoint);
        gateway.check(Instant::now())?;
        // The semaphore is never closed.
        let _permit = self.permits.acquire().await;
        let posted = gateway
            .client
            .post_to_connection()
            .connection_id(recipient.id.as_str())
            .data(Blob::new(message))
            .send()
            .await;
        gateway.note(&recipient.endpoint, posted.map(|_| ()).map_err(classify))
    }
}

impl Gateway {
    /// Fails if the gateway refused a connection a moment ago.
    fn check(&self, now: Instant) -> Result<(), OutletError> {
        match *self.outage.lock() {
            Some(outage) if now - outage.seen < RETRY_AFTER => Err(outage.error()),
            Some(_) | None => Ok(()),
        }
    }

    /// Records whether something listens at the gateway's address, and returns the result. For a refused
    /// connection, returns the error of the outage.
    fn note(&self, endpoint: &str, result: Result<(), OutletError>) -> Result<(), OutletError> {
        let now = Instant::now();
        let mut outage = self.outage.lock();
        match result {
            Err(OutletError::Failed(error)) if is_refused(error.as_ref()) => {
                if outage.is_none() {
                    warn!(endpoint, "the gateway refuses connections; retrying");
                }
                let since = outage.map_or(now, |outage| outage.since);
                let ongoing = Outage { since, seen: now };
                *outage = Some(ongoing);
                Err(ongoing.error())
            }
            result => {
                *outage = None;
                result
            }
        }
    }
}

impl Outage {
    /// Returns the error of a post during the outage.
    fn error(&self) -> OutletError {
        if self.seen - self.since < DEAD_AFTER { OutletError::Busy } else { OutletError::Gone }
    }
}

/// Returns whether the connection was refused.
fn is_refused(error: &(dyn StdError + 'static)) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        || error.source().is_some_and(is_refused)
}

impl Outlet for Management {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, OutletError)>> {
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

    fn close<'a>(&'a self, recipient: &'a Recipient) -> BoxFuture<'a, Result<(), OutletError>> {
        Box::pin(async move {
            let gateway = self.gateway(&recipient.endpoint);
            gateway.check(Instant::now())?;
            let delete = gateway.client.delete_connection();
            let deleted = delete.connection_id(recipient.id.as_str()).send().await;
            gateway.note(&recipient.endpoint, deleted.map(|_| ()).map_err(classify))
        })
    }
}

/// Classifies an error by the HTTP status, because not every emulated gateway sends the error's type.
fn classify<E>(
    error: SdkError<E, aws_sdk_apigatewaymanagement::config::http::HttpResponse>,
) -> OutletError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    match error.raw_response().map(|response| response.status().as_u16()) {
        Some(410) => OutletError::Gone,
        Some(413) => OutletError::TooLarge,
        Some(429) => OutletError::Busy,
        _ => OutletError::Failed(Box::new(error)),
    }
}

#[cfg(test)]
mod tests {
    use aws_config::BehaviorVersion;
    use tokio::time;

    use super::*;

    fn management() -> Management {
        let config = SdkConfig::builder().behavior_version(BehaviorVersion::latest()).build();
        Management::new(config)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_gone_after_their_gateway_refused_for_long_enough() {
        let gateway = management().gateway(&"http://127.0.0.1:9".into());
        let refused = || {
            Err(OutletError::Failed(Box::new(io::Error::from(io::ErrorKind::ConnectionRefused))))
        };
        let start = Instant::now();
        assert!(matches!(gateway.note("gateway", refused()), Err(OutletError::Busy)));
        assert!(matches!(gateway.check(start), Err(OutletError::Busy)), "no retry at once");
        assert!(gateway.check(start + RETRY_AFTER).is_ok(), "a retry after a while");

        time::advance(DEAD_AFTER).await;
        assert!(matches!(gateway.note("gateway", refused()), Err(OutletError::Gone)));
        assert!(matches!(gateway.check(Instant::now()), Err(OutletError::Gone)));

        let reset = io::Error::from(io::ErrorKind::ConnectionReset);
        let broken = gateway.note("gateway", Err(OutletError::Failed(Box::new(reset))));
        assert!(matches!(broken, Err(OutletError::Failed(_))), "the gateway is reachable");
        assert!(gateway.check(Instant::now()).is_ok());
    }
}
