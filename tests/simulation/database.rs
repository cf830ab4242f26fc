//! A DynamoDB with the habits of the real one: an index that lags, throttling, outages, and responses
//! that are lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_config::{
    BehaviorVersion, Region, SdkConfig, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, timeout::TimeoutConfig,
};
use aws_credential_types::{Credentials, provider::SharedCredentialsProvider};
use aws_smithy_async::rt::sleep::SharedAsyncSleep;
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
use domain::topic::Topic;
use dynamo::Storage;
use harness::{Call, Roles};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use crate::{link::Link, trace::Trace};

/// The faults of the database.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    /// Longest time until the index shows a change.
    pub(crate) index_lag: Duration,
    /// Share of the requests that are throttled.
    pub(crate) throttled: f64,
    /// Share of the requests that are done and answered with an error.
    pub(crate) lost_responses: f64,
}

#[derive(Clone)]
pub(crate) struct Database(Arc<Mutex<Inner>>);

struct Inner {
    roles: Roles,
    storage: Storage,
    rng: fastrand::Rng,
    faults: Faults,
    outage_until: Option<Instant>,
    /// By shard and connection: the versions of the item, and when the index shows each.
    index: BTreeMap<(String, String), Vec<Version>>,
    /// By source and owner, the highest epoch of a lease.
    epochs: BTreeMap<(String, String), u64>,
    /// By source, who has acquired the lease last, and when.
    leaders: BTreeMap<String, (String, Instant)>,
    /// By topic, the highest epoch of those who have written to it.
    writers: BTreeMap<String, u64>,
    trace: Trace,
}

/// A version of an item of the connections.
struct Version {
    /// When the index shows it.
    at: Instant,
    /// `changed_at` of the item, in milliseconds, and the item as JSON; `None` if the index does not have it.
    item: Option<(i64, String)>,
}

/// The access of one program.
#[derive(Clone)]
struct Access {
    database: Database,
    /// Whose role limits it; `None` for the simulation itself.
    program: Option<&'static str>,
    /// The name of the process.
    owner: String,
    link: Link,
}

impl Database {
    pub(crate) fn new(rng: fastrand::Rng, trace: Trace) -> Self {
        let storage = Storage::open(None).unwrap();
        Self(Arc::new(Mutex::new(Inner {
            roles: Roles::read(),
            storage,
            rng,
            faults: Faults::default(),
            outage_until: None,
            index: BTreeMap::new(),
            epochs: BTreeMap::new(),
            leaders: BTreeMap::new(),
            writers: BTreeMap::new(),
            trace,
        })))
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    pub(crate) fn begin_outage(&self, time: Duration) {
        let mut inner = self.0.lock();
        inner.outage_until = Some(Instant::now() + time);
        inner.trace.count("database: outages");
    }

    pub(crate) fn end_outage(&self) {
        self.0.lock().outage_until = None;
    }

    /// Returns for how long another poller than `owner` has led a source.
    pub(crate) fn led_by_another(&self, source: &str, owner: &str) -> Option<Duration> {
        let inner = self.0.lock();
        let (leader, since) = inner.leaders.get(source)?;
        (leader != owner).then(|| since.elapsed())
    }

    /// Deletes an entry of the log, as the TTL does.
    pub(crate) fn delete_event(&self, topic: &Topic, seq: u64) {
        let key = json!({"topic": {"S": topic}, "seq": {"N": seq.to_string()}});
        let request = json!({"TableName": "headwater-events", "Key": key});
        let inner = self.0.lock();
        let (status, text) = inner.storage.call("DeleteItem", request.to_string().as_bytes());
        assert_eq!(status, 200, "{text}");
    }

    /// The configuration of the SDK of a process that runs a program.
    pub(crate) fn sdk_config(
        &self,
        program: Option<&'static str>,
        owner: &str,
        link: Link,
    ) -> SdkConfig {
        let credentials = Credentials::new("simulated", "simulated", None, None, "simulated");
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(Duration::from_secs(2))
            .operation_attempt_timeout(Duration::from_secs(3))
            .build();
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static("local"))
            .endpoint_url("http://simulated.invalid")
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .retry_config(RetryConfig::standard().with_initial_backoff(Duration::from_millis(50)))
            .timeout_config(timeouts)
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            .sleep_impl(SharedAsyncSleep::new(aws_smithy_async::rt::sleep::TokioSleep::new()))
            .http_client(Access { database: self.clone(), program, owner: owner.to_owned(), link })
            .build()
    }
}

impl Inner {
    /// Runs a request, given as bytes and as a value.
    fn run(&mut self, owner: &str, operation: &str, bytes: &[u8], body: &Value) -> (u16, String) {
        if body["IndexName"] == "changes" {
            return (200, self.changes(body));
        }
        self.trace.count("database: requests");
        let response = self.storage.call(operation, bytes);
        let is_write = matches!(operation, "PutItem" | "UpdateItem" | "DeleteItem");
        if is_write && response.0 == 200 {
            let table = body["TableName"].as_str().unwrap_or_default();
            match table.rsplit('-').next().unwrap_or_default() {
                "connections" => self.index_later(body),
                "control" => self.see_lease(body, &response.1),
                "events" => self.see_append(owner, body),
                _ => {}
            }
        }
        response
    }

    /// Notes who leads, if a poller has acquired a lease.
    fn see_lease(&mut self, body: &Value, response: &str) {
        let key = &body["Key"];
        let update = body["UpdateExpression"].as_str().unwrap_or_default();
        if key["pk"]["S"] != "lease" || !update.contains("ADD epoch") {
            return;
        }
        let response: Value = serde_json::from_str(response).unwrap();
        let lease = &response["Attributes"];
        let epoch = lease["epoch"]["N"].as_str().unwrap().parse().unwrap();
        let text = |value: &Value| value["S"].as_str().unwrap().to_owned();
        let (source, owner) = (text(&key["sk"]), text(&lease["lease_owner"]));
        self.leaders.insert(source.clone(), (owner.clone(), Instant::now()));
        self.epochs.insert((source, owner), epoch);
    }

    /// Checks that no leader appends to a topic after its successor did.
    fn see_append(&mut self, owner: &str, body: &Value) {
        let item = &body["Item"];
        // A fence of an earlier leader has no effect.
        if item["fence"].is_object() {
            return;
        }
        let Some(topic) = item["topic"]["S"].as_str() else { return };
        let source = topic.split('/').next().unwrap_or_default();
        let Some(&epoch) = self.epochs.get(&(source.to_owned(), owner.to_owned())) else { return };
        let newest = self.writers.entry(topic.to_owned()).or_default();
        if epoch < *newest {
            self.trace.violation(&format!(
                "{owner} wrote to {topic} in term {epoch}, after a leader of term {newest}"
            ));
        }
        *newest = epoch.max(*newest);
    }

    /// The index shows a change after some time.
    fn index_later(&mut self, body: &Value) {
        let item = if body["Item"].is_object() { &body["Item"] } else { &body["Key"] };
        let key = json!({"shard": item["shard"], "connection_id": item["connection_id"]});
        let get = json!({"TableName": body["TableName"], "Key": key, "ConsistentRead": true});
        let (_, text) = self.storage.call("GetItem", get.to_string().as_bytes());
        let found: Value = serde_json::from_str(&text).unwrap();
        let item = &found["Item"];
        let changed_at = item["changed_at"]["N"].as_str();
        let item = changed_at.map(|at| (at.parse().unwrap(), item.to_string()));
        let lag = self.faults.index_lag.mul_f64(self.rng.f64());
        let text = |name: &str| key[name]["S"].as_str().unwrap_or_default().to_owned();
        let versions = self.index.entry((text("shard"), text("connection_id"))).or_default();
        // The index shows the changes of an item in order.
        let earliest = versions.last().map_or_else(Instant::now, |version| version.at);
        versions.push(Version { at: earliest.max(Instant::now() + lag), item });
        if !lag.is_zero() {
            self.trace.count("database: lags of the index");
        }
    }

    /// Returns the response to a query of the index.
    fn changes(&self, body: &Value) -> String {
        let values = &body["ExpressionAttributeValues"];
        let shard = values[":shard"]["S"].as_str().unwrap_or_default();
        let since: i64 = values[":since"]["N"].as_str().unwrap().parse().unwrap();
        let now = Instant::now();
        let connections = self.index.iter().filter(|((of, _), _)| of == shard);
        let shown = connections
            .filter_map(|(_, versions)| versions.iter().rev().find(|version| version.at <= now));
        let items: Vec<&str> = shown
            .filter_map(|version| version.item.as_ref())
            .filter(|(changed_at, _)| *changed_at >= since)
            .map(|(_, item)| item.as_str())
            .collect();
        let (count, items) = (items.len(), items.join(","));
        format!(r#"{{"Count":{count},"ScannedCount":{count},"Items":[{items}]}}"#)
    }
}

impl Access {
    async fn call(
        self,
        operation: String,
        bytes: Vec<u8>,
    ) -> Result<(u16, String), ConnectorError> {
        let (before, after, trace) = {
            let mut inner = self.database.0.lock();
            inner.trace.record(&format!("{} {operation}", self.owner), &bytes);
            (inner.rng.u64(500..4_000), inner.rng.u64(500..4_000), inner.trace.clone())
        };
        let body: Value = serde_json::from_slice(&bytes).unwrap();
        self.link.is_up().await;
        time::sleep(Duration::from_micros(before)).await;
        self.link.is_up().await;
        let outage = self.database.0.lock().outage_until.filter(|until| *until > Instant::now());
        if outage.is_some() {
            let hangs = self.database.0.lock().rng.bool();
            if hangs {
                time::sleep(Duration::from_secs(30)).await;
            }
            return Ok(error(500, "InternalServerError"));
        }
        let result = {
            let mut inner = self.database.0.lock();
            let Faults { throttled, lost_responses, .. } = inner.faults;
            let call = Call::of_dynamodb(&operation, &body);
            if self.program.is_some_and(|program| !inner.roles.admit(program, &call)) {
                trace.violation(&format!("{} was denied {operation} {body}", self.owner));
                error(400, "AccessDeniedException")
            } else if inner.rng.f64() < throttled {
                inner.trace.count("database: throttled requests");
                error(400, "ThrottlingException")
            } else {
                let response = inner.run(&self.owner, &operation, &bytes, &body);
                if inner.rng.f64() < lost_responses {
                    inner.trace.count("database: lost responses");
                    error(500, "InternalServerError")
                } else {
                    response
                }
            }
        };
        time::sleep(Duration::from_micros(after)).await;
        self.link.is_up().await;
        trace.record(&format!("{} {operation}: {}", self.owner, result.0), result.1.as_bytes());
        Ok(result)
    }
}

fn error(status: u16, kind: &str) -> (u16, String) {
    let kind = format!("com.amazonaws.dynamodb.v20120810#{kind}");
    (status, json!({"__type": kind, "message": "simulated"}).to_string())
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

impl HttpClient for Access {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Access {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let target = request.headers().get("x-amz-target").unwrap_or_default();
        let operation = target.rsplit('.').next().unwrap_or_default().to_owned();
        let body = request.body().bytes().unwrap_or_default().to_vec();
        let access = self.clone();
        HttpConnectorFuture::new(async move {
            let (status, json) = access.call(operation, body).await?;
            let status = StatusCode::try_from(status)
                .map_err(|error| ConnectorError::other(error.into(), None))?;
            let mut response = HttpResponse::new(status, SdkBody::from(json));
            response.headers_mut().insert("content-type", "application/x-amz-json-1.0");
            Ok(response)
        })
    }
}
