//! The embedded DynamoDB engine: what `aws-sdk-dynamodb` sends is answered in this process.
//!
//! The SDK's requests end in an HTTP connector; this one hands them to `dynoxide` on a thread of
//! its own, because the engine computes on the thread that calls it.

use std::{
    fs::{File, TryLockError},
    path::Path,
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
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
use dynoxide::{Database, DynoxideError};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How often expired items are deleted; the engine does not do that by itself.
const SWEEP_EVERY: Duration = Duration::from_mins(1);

/// How often the data folder is tried before it is given up.
const LOCK_TRIES: u32 = 20;

/// The time between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// The file in the data folder.
const FILE: &str = "headwater.db";

/// A DynamoDB in this process.
#[derive(Clone, Debug)]
pub struct Engine {
    requests: mpsc::Sender<Request>,
}

/// Something for the engine's thread to do.
enum Request {
    Call { operation: String, body: Vec<u8>, answer: oneshot::Sender<(u16, String)> },
    Sweep { answer: oneshot::Sender<Result<usize, DynoxideError>> },
}

impl Engine {
    /// Opens the database in `folder`, which is made if missing, or one in memory.
    ///
    /// # Errors
    ///
    /// When the folder cannot be written, or another process has it open.
    pub fn open(folder: Option<&Path>) -> anyhow::Result<Self> {
        let (database, lock) = open(folder)?;
        let (requests, queue) = mpsc::channel();
        thread::Builder::new()
            .name("database".to_owned())
            .spawn(move || {
                let _lock = lock;
                while let Ok(request) = queue.recv() {
                    serve(&database, request);
                }
            })
            .context("cannot start the database's thread")?;
        Ok(Self { requests })
    }

    /// An SDK configuration whose requests this engine answers.
    pub fn sdk_config(&self) -> SdkConfig {
        // The engine checks that a request is signed, not by whom.
        let credentials = Credentials::new("embedded", "embedded", None, None, "embedded");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("local"))
            .endpoint_url("http://embedded.invalid")
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .http_client(self.clone())
            .build()
    }

    /// Deletes expired items from time to time until `shutdown`.
    pub async fn sweep(self, shutdown: CancellationToken) {
        let mut timer = tokio::time::interval(SWEEP_EVERY);
        while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
            let (answer, swept) = oneshot::channel();
            if self.requests.send(Request::Sweep { answer }).is_err() {
                return;
            }
            match swept.await {
                Ok(Ok(0)) | Err(_) => {}
                Ok(Ok(items)) => tracing::debug!(items, "expired items deleted"),
                Ok(Err(error)) => tracing::warn!(%error, "expired items could not be deleted"),
            }
        }
    }
}

/// Opens the database in `folder`, which is made if missing and taken for this process alone while the
/// file is open, or one in memory.
///
/// # Errors
///
/// When the folder cannot be written, or another process has it open.
pub fn open(folder: Option<&Path>) -> anyhow::Result<(Database, Option<File>)> {
    let Some(folder) = folder else {
        return Ok((Database::memory().context("cannot open a database in memory")?, None));
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the data folder {}", folder.display()))?;
    let lock = lock(folder)?;
    let file = folder.join(FILE);
    let path = file.to_str().context("the data folder's name is not UTF-8")?;
    let database = Database::new(path)
        .with_context(|| format!("cannot open the database {}", file.display()))?;
    // Sets `synchronous = NORMAL`: a commit survives the death of the process, and waits for no
    // disk. What the machine's death can take are the last moments.
    database.disable_bulk_loading().context("cannot configure the database")?;
    Ok((database, Some(lock)))
}

/// Takes the folder for this process alone, until the file is dropped.
fn lock(folder: &Path) -> anyhow::Result<File> {
    let path = folder.join("lock");
    let file = File::create(&path)
        .with_context(|| format!("cannot write to the data folder {}", folder.display()))?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // Whoever had it may be about to end.
            Err(TryLockError::WouldBlock) if tries < LOCK_TRIES => {
                tries += 1;
                thread::sleep(LOCK_PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                bail!("the data folder {} is in use by another process", folder.display())
            }
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

fn serve(database: &Database, request: Request) {
    // Whoever asked may have stopped waiting.
    match request {
        Request::Call { operation, body, answer } => {
            let answered = match call(database, &operation, &body) {
                Ok(json) => (200, json),
                Err(error) => (error.status_code(), error.to_json()),
            };
            let _ = answer.send(answered);
        }
        Request::Sweep { answer } => {
            let _ = answer.send(database.sweep_ttl());
        }
    }
}

/// Answers one of the operations that the product uses.
fn call(database: &Database, operation: &str, body: &[u8]) -> Result<String, DynoxideError> {
    match operation {
        "PutItem" => answer(body, |request| database.put_item(request)),
        "GetItem" => answer(body, |request| database.get_item(request)),
        "UpdateItem" => answer(body, |request| database.update_item(request)),
        "DeleteItem" => answer(body, |request| database.delete_item(request)),
        "Query" => answer(body, |request| database.query(request)),
        "Scan" => answer(body, |request| database.scan(request)),
        "CreateTable" => answer(body, |request| database.create_table(request)),
        "DescribeTable" => answer(body, |request| database.describe_table(request)),
        "ListTables" => answer(body, |request| database.list_tables(request)),
        "UpdateTimeToLive" => answer(body, |request| database.update_time_to_live(request)),
        _ => Err(DynoxideError::ValidationException(format!(
            "the embedded engine is not asked for {operation}"
        ))),
    }
}

fn answer<Q: DeserializeOwned, A: Serialize>(
    body: &[u8],
    run: impl FnOnce(Q) -> Result<A, DynoxideError>,
) -> Result<String, DynoxideError> {
    let invalid = |error: serde_json::Error| DynoxideError::ValidationException(error.to_string());
    let request = serde_json::from_slice(body).map_err(invalid)?;
    serde_json::to_string(&run(request)?).map_err(invalid)
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
        let (answer, answered) = oneshot::channel();
        let sent = self.requests.send(Request::Call { operation, body, answer });
        HttpConnectorFuture::new(async move {
            let gone = || ConnectorError::other("the database's thread has ended".into(), None);
            sent.map_err(|_| gone())?;
            let (status, json) = answered.await.map_err(|_| gone())?;
            let status = StatusCode::try_from(status)
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            Ok(HttpResponse::new(status, SdkBody::from(json)))
        })
    }
}
