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
pub(crate) fn open(folder: Option<&Path>) -> anyhow::Result<(Database, Option<File>)> {
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use aws::{
        clients::Clients,
        connections::{Connection, ConnectionError, Subscription},
        control::Origin,
        log::{AppendError, Entry},
        post::Recipient,
        reader::{Refresh, ShardReader},
        tables::Tables,
    };
    use bytes::Bytes;
    use domain::{access::Principal, connection::ConnectionId, frame::Frame, topic::Topic};
    use jiff::{Timestamp, ToSpan as _};

    use super::*;

    async fn tables() -> Tables {
        let engine = Engine::open(None).expect("a database");
        let client = aws_sdk_dynamodb_client(&engine);
        client.create_missing().await.expect("tables");
        client
    }

    fn aws_sdk_dynamodb_client(engine: &Engine) -> Tables {
        let options = aws::clients::TableOptions {
            table_prefix: "test-".to_owned(),
            retention: Duration::from_hours(1),
        };
        Clients::from_config(engine.sdk_config()).tables(&options)
    }

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().expect("a time")
    }

    fn topic(text: &str) -> Topic {
        Topic::parse(text).expect("a topic")
    }

    fn frame(topic: &Topic, seq: u64, events: &[&str]) -> Entry {
        Entry::Frame(Frame::new(topic.clone(), seq, now(), events))
    }

    #[tokio::test]
    async fn the_log_keeps_order_and_fences_off_a_second_writer() {
        let log = tables().await.log;
        let t = topic("coinbase/matches/BTC-USD");
        assert_eq!(log.newest(&t).await.unwrap(), None);
        let first = frame(&t, 1, &["1", "2", "3"]);
        log.append(&first, None, now()).await.unwrap();
        log.append(&first, None, now()).await.expect("a repeated append is fine");
        let taken = log.append(&frame(&t, 1, &["9"]), None, now()).await;
        assert!(matches!(taken, Err(AppendError::Taken { seq: 1, .. })), "{taken:?}");
        log.append(&Entry::Lost { topic: t.clone(), seq: 4, last: 6 }, None, now()).await.unwrap();
        log.append(&frame(&t, 7, &["7", "8"]), Some(7), now()).await.unwrap();

        let newest = log.newest(&t).await.unwrap().unwrap();
        assert_eq!((newest.entry.last(), newest.snapshot), (8, Some(7)));
        for (from, to, expected) in [
            (1, 8, vec![(1, 3), (4, 6), (7, 8)]),
            (2, 2, vec![(1, 3)]),
            (3, 4, vec![(1, 3), (4, 6)]),
            (8, 99, vec![(7, 8)]),
            (9, 99, vec![]),
        ] {
            let read = log.read(&t, from, to, usize::MAX, now()).await.unwrap();
            let read: Vec<_> = read.iter().map(|e| (e.seq(), e.last())).collect();
            assert_eq!(read, expected, "case: {from}..={to}");
        }
        let later = now() + 2.hours();
        assert_eq!(log.read(&t, 1, 8, usize::MAX, later).await.unwrap(), [], "all has expired");
        assert_eq!(log.oldest(&t, now()).await.unwrap(), Some(1));
        assert_eq!(log.oldest(&t, later).await.unwrap(), None);
    }

    #[tokio::test]
    async fn an_event_in_the_log_can_be_superseded() {
        let log = tables().await.log;
        let t = topic("mastodon/public");
        log.append(&frame(&t, 1, &["1", "2", "3"]), None, now()).await.unwrap();
        let gone = Bytes::from_static(b"{}");
        assert!(log.supersede(&t, 2, &gone, now()).await.unwrap());
        assert!(!log.supersede(&t, 4, &gone, now()).await.unwrap());
        let read = log.read(&t, 1, 1, usize::MAX, now()).await.unwrap();
        assert_eq!(read, [frame(&t, 1, &["1", "{}", "3"])]);
    }

    #[tokio::test]
    async fn connections_subscribe_go_live_and_leave() {
        let connections = tables().await.connections;
        let id = ConnectionId::new("abc=");
        let recipient = Recipient { endpoint: "http://gateway".into(), id: id.clone() };
        let (a, b) = (topic("coinbase/ticker/BTC-USD"), topic("mastodon/public"));
        let both = BTreeSet::from([a.clone(), b.clone()]);

        let early = connections.join(0, &id, &both, 50, now()).await;
        assert!(matches!(early, Err(ConnectionError::NotOpen(_))), "{early:?}");
        let open = Connection::open(recipient, 0, Principal::anonymous(), now());
        connections.open(&open).await.unwrap();
        let mut reader = ShardReader::new(connections.clone(), 0);
        let Refresh::All(all) = reader.refresh(now()).await.unwrap() else { panic!("all first") };
        assert_eq!(all, [open]);

        let joined = connections.join(0, &id, &both, 2, now()).await.unwrap();
        assert_eq!(joined.added, both);
        let again = connections.join(0, &id, &both, 2, now()).await.unwrap();
        assert_eq!(again.added, BTreeSet::new(), "a full connection may repeat itself");
        let third = BTreeSet::from([topic("system/sources")]);
        let full = connections.join(0, &id, &third, 2, now()).await;
        assert!(
            matches!(full, Err(ConnectionError::TooManyTopics { has: 2, limit: 2 })),
            "{full:?}"
        );

        connections.go_live(0, &id, &BTreeMap::from([(a.clone(), 41)]), now()).await.unwrap();
        let Refresh::Changed(changed) = reader.refresh(now()).await.unwrap() else {
            panic!("changes next")
        };
        assert_eq!(changed.len(), 1);
        assert_eq!(changed[0].topics[&a], Subscription::Live { cursor: 41, since: now() });
        assert_eq!(changed[0].topics[&b], Subscription::Joining { since: now() });
        assert!(!changed[0].topics[&b].is_live(now()));
        assert!(changed[0].topics[&b].is_live(now() + 31.seconds()), "its subscribe has died");
        let Refresh::Changed(none) = reader.refresh(now()).await.unwrap() else {
            panic!("changes")
        };
        assert_eq!(none, [], "a change is told once");

        let left = connections.leave(0, &id, &BTreeSet::from([a.clone()]), now()).await.unwrap();
        assert_eq!(left, BTreeSet::from([a.clone()]));
        let left = connections.leave(0, &id, &BTreeSet::from([a]), now()).await.unwrap();
        assert_eq!(left, BTreeSet::new());
        connections.close(0, &id, now()).await.unwrap();
        connections.close(0, &id, now()).await.expect("closing twice is fine");
        assert_eq!(connections.get(0, &id).await.unwrap(), None);
        let Refresh::Changed(gone) = reader.refresh(now()).await.unwrap() else {
            panic!("changes")
        };
        assert!(gone[0].gone);
        let late = connections.join(0, &id, &both, 50, now()).await;
        assert!(matches!(late, Err(ConnectionError::NotOpen(_))), "{late:?}");
    }

    #[tokio::test]
    async fn a_lease_has_one_owner_until_it_lapses() {
        let control = tables().await.control;
        let term = Duration::from_secs(10);
        let a = control.acquire("coinbase", "a", term, now()).await.unwrap().unwrap();
        assert_eq!(a.epoch, 1);
        assert_eq!(control.acquire("coinbase", "b", term, now()).await.unwrap(), None);
        assert!(control.renew(&a, term, now() + 9.seconds()).await.unwrap());
        assert_eq!(
            control.acquire("coinbase", "b", term, now() + 18.seconds()).await.unwrap(),
            None
        );
        let b =
            control.acquire("coinbase", "b", term, now() + 19.seconds()).await.unwrap().unwrap();
        assert_eq!(b.epoch, 2);
        assert!(!control.renew(&a, term, now() + 20.seconds()).await.unwrap());
        assert!(control.release(&b).await.unwrap());
        let c = control.acquire("coinbase", "c", term, now()).await.unwrap().unwrap();
        control.clear_leases().await.unwrap();
        assert!(!control.renew(&c, term, now()).await.unwrap());
    }

    #[tokio::test]
    async fn what_control_is_told_it_knows() {
        let control = tables().await.control;
        let t = topic("mastodon/public");
        assert_eq!(control.claim_origin(Origin::Simulated).await.unwrap(), Origin::Simulated);
        assert_eq!(control.claim_origin(Origin::Live).await.unwrap(), Origin::Simulated);
        assert_eq!(control.reserved(&t).await.unwrap(), None);
        control.reserve(&t, 7).await.unwrap();
        assert_eq!(control.reserved(&t).await.unwrap(), Some(7));
        control.place("https://a.example/1", &t, &[3, 5], now()).await.unwrap();
        assert_eq!(control.places("https://a.example/1", &t).await.unwrap(), [3, 5]);
        assert!(control.places("https://a.example/2", &t).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn the_data_folder_is_for_one_process_and_survives_it() {
        let folder = tempfile::tempdir().unwrap();
        let t = topic("mastodon/public");
        {
            let engine = Engine::open(Some(folder.path())).unwrap();
            let again = Engine::open(Some(folder.path())).expect_err("it is in use");
            assert!(again.to_string().contains("in use"), "{again}");
            let tables = aws_sdk_dynamodb_client(&engine);
            tables.create_missing().await.unwrap();
            tables.create_missing().await.expect("tables that are there are fine");
            tables.log.append(&frame(&t, 1, &["1"]), None, now()).await.unwrap();
        }
        // The thread ends, and frees the folder, a moment after the last handle.
        let engine = loop {
            match Engine::open(Some(folder.path())) {
                Ok(engine) => break engine,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        let tables = aws_sdk_dynamodb_client(&engine);
        assert!(tables.log.newest(&t).await.unwrap().is_some());
    }
}
