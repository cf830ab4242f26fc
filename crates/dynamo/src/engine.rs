//! The thread of the database, and the HTTP connector that passes the SDK's requests to it.

use std::{path::Path, sync::mpsc, thread, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    commit,
    faults::{Fault, Faults},
    storage::{OpenError, Storage},
};

/// Most calls that are taken from the queue at a time.
const MOST_WAITING: usize = 1_000;

/// A DynamoDB in this process.
///
/// The database blocks the thread that calls it, so it has a thread of its own. The thread ends when the last
/// clone of the engine is dropped.
#[derive(Clone)]
pub struct Engine {
    /// `None` if operations run on the thread that calls them.
    calls: Option<mpsc::Sender<Call>>,
    storage: Storage,
    faults: Faults,
}

/// One request.
struct Call {
    operation: String,
    body: Vec<u8>,
    /// The HTTP status and the JSON body.
    response: oneshot::Sender<(u16, String)>,
}

impl Engine {
    /// Opens the database in `folder`, or creates one in memory. Creates a missing folder.
    ///
    /// # Errors
    ///
    /// [`OpenError`] when the folder cannot be used or another process has it open.
    pub fn open(folder: Option<&Path>) -> Result<Self, OpenError> {
        Self::start(Storage::open(folder)?)
    }

    /// Starts the thread of an open database.
    ///
    /// # Errors
    ///
    /// [`OpenError::StartThread`] when the thread cannot be started.
    pub fn start(storage: Storage) -> Result<Self, OpenError> {
        let worker = storage.clone();
        let (calls, queue) = mpsc::channel();
        thread::Builder::new()
            .name("database".to_owned())
            .spawn(move || {
                while let Ok(first) = queue.recv() {
                    serve_together(&worker, [first].into_iter().chain(queue.try_iter()));
                }
            })
            .map_err(OpenError::StartThread)?;
        Ok(Self { calls: Some(calls), storage, faults: Faults::default() })
    }

    /// Uses a database on the thread that calls it, for tests and simulations. No other thread takes
    /// part, so Tokio's paused clock does not advance during an operation.
    pub fn inline(storage: Storage) -> Self {
        Self { calls: None, storage, faults: Faults::default() }
    }

    /// Returns an engine with the same database, whose operations have these faults.
    #[must_use]
    pub fn with_faults(self, faults: Faults) -> Self {
        Self { faults, ..self }
    }

    /// Returns an SDK configuration whose requests go to this engine.
    pub fn sdk_config(&self) -> SdkConfig {
        // The SDK signs every request, and the engine does not check the signature.
        let credentials = Credentials::new("embedded", "embedded", None, None, "embedded");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("local"))
            .endpoint_url("http://embedded.invalid")
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            // Requests are repeated as soon as those to AWS are.
            .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(50)))
            .http_client(self.clone())
            .build()
    }

    /// Runs an operation, such as `PutItem`. Takes the request as JSON. Returns the HTTP status and the
    /// response, also as JSON, or `None` if the thread of the database has ended.
    pub(crate) fn run(
        &self,
        operation: String,
        body: Vec<u8>,
    ) -> impl Future<Output = Option<(u16, String)>> + Send + 'static {
        let (response, receiver) = oneshot::channel();
        let call = Call { operation, body, response };
        // If the call is dropped, the receiver returns an error.
        match &self.calls {
            Some(calls) => drop(calls.send(call)),
            None => serve(&self.storage, call),
        }
        async move { receiver.await.ok() }
    }

    /// Deletes expired items once a minute until `shutdown`.
    pub async fn delete_expired(self, shutdown: CancellationToken) {
        let Self { calls, storage, .. } = self;
        drop(calls);
        storage.delete_expired(shutdown).await;
    }
}

/// Runs the calls that are waiting. They are concurrent, so their order does not matter. Those writes
/// that can share a commit do.
fn serve_together(storage: &Storage, waiting: impl Iterator<Item = Call>) {
    let mut group: Vec<Call> = Vec::new();
    let mut bytes = 0;
    for call in waiting.take(MOST_WAITING) {
        let size = call.body.len();
        if size > commit::MOST_BYTES || !commit::can_share(&call.operation, &call.body) {
            serve(storage, call);
            continue;
        }
        if group.len() == commit::MOST_WRITES || bytes + size > commit::MOST_BYTES {
            serve_group(storage, std::mem::take(&mut group));
            bytes = 0;
        }
        bytes += size;
        group.push(call);
    }
    serve_group(storage, group);
}

fn serve_group(storage: &Storage, group: Vec<Call>) {
    let writes: Vec<(&str, &[u8])> =
        group.iter().map(|call| (call.operation.as_str(), call.body.as_slice())).collect();
    let is_done = writes.len() > 1 && commit::together(storage, &writes);
    for call in group {
        if is_done {
            // The caller may have stopped waiting.
            let _ = call.response.send((200, "{}".to_owned()));
        } else {
            serve(storage, call);
        }
    }
}

fn serve(storage: &Storage, call: Call) {
    let response = storage.call(&call.operation, &call.body);
    // The caller may have stopped waiting.
    let _ = call.response.send(response);
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").finish_non_exhaustive()
    }
}

impl HttpClient for Engine {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Engine {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.body().bytes().unwrap_or_default().to_vec();
        let fault = self.faults.take(&operation, &body);
        let lost = || ConnectorError::io("the connection was lost".into());
        if fault == Some(Fault::LoseRequest) {
            return HttpConnectorFuture::ready(Err(lost()));
        }
        let response = self.run(operation, body);
        HttpConnectorFuture::new(async move {
            let ended = || ConnectorError::other("the database thread has ended".into(), None);
            let (status, json) = response.await.ok_or_else(ended)?;
            if fault == Some(Fault::LoseResponse) {
                return Err(lost());
            }
            let status = StatusCode::try_from(status)
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            Ok(HttpResponse::new(status, SdkBody::from(json)))
        })
    }
}
