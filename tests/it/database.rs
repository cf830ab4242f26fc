//! `headwater database`, as the AWS SDK and other clients see it.

use std::{net::SocketAddr, path::Path, time::Duration};

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use domain::{entry::Entry, frame::Frame, topic::Topic};
use harness::{Ports, Program};
use jiff::Timestamp;
use reqwest::{Response, StatusCode};

/// The appends of the test, all at the same time.
const APPENDS: usize = 100;

/// A running database.
struct Database {
    program: Program,
    address: SocketAddr,
    _ports: Ports,
}

impl Database {
    async fn start(arguments: &[&str]) -> Self {
        let ports = Ports::reserve(1);
        let address = ports.at(0);
        let listen = address.to_string();
        let arguments = [&["database", "--listen", &listen], arguments].concat();
        let program = Program::start(&arguments, &[]);
        let database = Self { program, address, _ports: ports };
        harness::until("the database answers", async || {
            reqwest::get(database.url()).await.ok().filter(|it| it.status().is_success())
        })
        .await;
        database
    }

    fn url(&self) -> String {
        format!("http://{}/", self.address)
    }

    async fn tables(&self) -> Tables {
        let options = TableOptions {
            table_prefix: "headwater-".to_owned(),
            retention: Duration::from_hours(1),
        };
        Clients::of_stand_in(&self.url()).await.tables(&options)
    }

    /// Sends a request that is signed, as far as the server checks it.
    async fn post(
        &self,
        target: &str,
        content_type: &str,
        body: impl Into<reqwest::Body>,
    ) -> Response {
        reqwest::Client::new()
            .post(self.url())
            .header("content-type", content_type)
            .header("x-amz-target", target)
            .header("x-amz-date", "20260101T000000Z")
            .header("authorization", "AWS4-HMAC-SHA256 Credential=a, SignedHeaders=b, Signature=c")
            .body(body)
            .send()
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn concurrent_writes_to_the_database_share_commits() {
    let folder = tempfile::tempdir().unwrap();
    let database = Database::start(&["--data-dir", folder.path().to_str().unwrap()]).await;
    let tables = database.tables().await;
    // Connections are open before the commits are counted.
    append(&tables, 1).await;
    let before = commits(folder.path());
    append(&tables, 2).await;
    let commits = commits(folder.path()) - before;
    assert!(commits * 2 <= APPENDS, "{APPENDS} appends do not share {commits} commits");
    database.program.terminate().await;
    // What was acknowledged is there at the next start.
    let database = Database::start(&["--data-dir", folder.path().to_str().unwrap()]).await;
    let tables = database.tables().await;
    for topic in topics() {
        assert_eq!(tables.head(&topic, Timestamp::now()).await.unwrap(), 2, "case: {topic}");
    }
}

#[tokio::test]
async fn the_database_answers_invalid_requests_as_dynamodb_does() {
    const JSON: &str = "application/x-amz-json-1.0";
    const UNKNOWN: &str = r#"{"__type":"com.amazon.coral.service#UnknownOperationException"}"#;
    const NOT_JSON: &str = r#"{"__type":"com.amazon.coral.service#SerializationException"}"#;
    let database = Database::start(&[]).await;
    let health = reqwest::get(database.url()).await.unwrap();
    assert_eq!(health.status(), StatusCode::OK);
    assert!(health.text().await.unwrap().starts_with("healthy: dynamodb."));

    let cases = [
        ("unknown operation", "DynamoDB_20120810.Explode", "{}", UNKNOWN),
        ("another service", "Kinesis_20131202.PutItem", "{}", UNKNOWN),
        ("not JSON", "DynamoDB_20120810.PutItem", "{", NOT_JSON),
        ("not JSON for an unknown operation", "DynamoDB_20120810.Explode", "{", NOT_JSON),
        ("no body", "DynamoDB_20120810.PutItem", "", NOT_JSON),
    ];
    for (name, target, body, expected) in cases {
        let response = database.post(target, JSON, body).await;
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "case: {name}");
        assert_eq!(response.headers()["content-type"], JSON, "case: {name}");
        assert_eq!(response.text().await.unwrap(), expected, "case: {name}");
    }

    let table = "DynamoDB_20120810.DescribeTable";
    let missing = database.post(table, "application/json", r#"{"TableName":"missing"}"#).await;
    assert_eq!(missing.status(), StatusCode::BAD_REQUEST);
    assert_eq!(missing.headers()["content-type"], "application/json");
    let text = missing.text().await.unwrap();
    assert!(text.contains("#ResourceNotFoundException"), "{text}");
    let invalid = database.post(table, JSON, r#"{"TableName":5}"#).await.text().await.unwrap();
    assert!(invalid.contains("#SerializationException"), "{invalid}");

    let form = database.post(table, "text/plain", "{}").await;
    assert_eq!(form.status(), StatusCode::NOT_FOUND);
    let large = database.post(table, JSON, vec![b' '; 16 * 1024 * 1024 + 1]).await;
    assert_eq!(large.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let client = reqwest::Client::new();
    let unsigned = client.post(database.url()).header("x-amz-target", table).body("");
    let unsigned = unsigned.send().await.unwrap().text().await.unwrap();
    assert!(unsigned.contains("#MissingAuthenticationTokenException"), "{unsigned}");
    for path in ["shell", "a/b"] {
        let response = reqwest::get(format!("{}{path}", database.url())).await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "case: {path}");
    }
    let deleted = client.delete(database.url()).send().await.unwrap();
    assert_eq!(deleted.status(), StatusCode::NOT_FOUND);
}

fn topics() -> impl Iterator<Item = Topic> {
    (0..APPENDS).map(|index| Topic::coinbase("matches", &format!("A{index}-USD")).unwrap())
}

/// Appends the event with this number to all topics at the same time.
async fn append(tables: &Tables, seq: u64) {
    let appends = topics().map(|topic| {
        let log = tables.log.clone();
        tokio::spawn(async move {
            let now = Timestamp::now();
            let entry = Entry::Frame(Frame::new(topic, seq, now, &["{}"]));
            log.append(&entry, None, now).await.unwrap();
        })
    });
    for append in appends.collect::<Vec<_>>() {
        append.await.unwrap();
    }
}

/// Returns the number of commits in the write-ahead log of a database that is running.
///
/// The log of `SQLite` has a header of 32 bytes, which contains the size of a page. Each frame has a header of
/// 24 bytes and a page. The second number of a frame is not zero if the frame ends a commit.
fn commits(folder: &Path) -> usize {
    let log = std::fs::read(folder.join("headwater.db-wal")).unwrap();
    let number = |at: usize| u32::from_be_bytes(log[at..at + 4].try_into().unwrap());
    let frame = 24 + number(8) as usize;
    (32..log.len()).step_by(frame).filter(|at| number(at + 4) != 0).count()
}
