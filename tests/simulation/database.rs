//! A DynamoDB with the habits of the real one: an index that lags, throttling, outages, and responses
//! that are lost.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws_config::{BehaviorVersion, Region, SdkConfig, retry::RetryConfig, timeout::TimeoutConfig};
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
use dynamo::Storage;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::time::{self, Instant};

use crate::link::Link;

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
    storage: Storage,
    rng: fastrand::Rng,
    faults: Faults,
    outage_until: Option<Instant>,
    /// By shard and connection: the versions of the item, and when the index shows each.
    index: BTreeMap<(String, String), Vec<Version>>,
    counts: BTreeMap<&'static str, u64>,
}

/// When the index shows a version of an item, and the item; `None` if it was deleted.
type Version = (Instant, Option<Value>);

/// The access of one program.
#[derive(Clone)]
struct Access {
    database: Database,
    link: Link,
}

impl Database {
    pub(crate) fn new(rng: fastrand::Rng) -> Self {
        let storage = Storage::open(None).unwrap();
        Self(Arc::new(Mutex::new(Inner {
            storage,
            rng,
            faults: Faults::default(),
            outage_until: None,
            index: BTreeMap::new(),
            counts: BTreeMap::new(),
        })))
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.0.lock().faults = faults;
    }

    pub(crate) fn begin_outage(&self, time: Duration) {
        let mut inner = self.0.lock();
        inner.outage_until = Some(Instant::now() + time);
        *inner.counts.entry("database: outages").or_default() += 1;
    }

    pub(crate) fn end_outage(&self) {
        self.0.lock().outage_until = None;
    }

    pub(crate) fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.0.lock().counts.clone()
    }

    /// The configuration of a program's SDK.
    pub(crate) fn sdk_config(&self, link: Link) -> SdkConfig {
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
            .sleep_impl(SharedAsyncSleep::new(aws_smithy_async::rt::sleep::TokioSleep::new()))
            .http_client(Access { database: self.clone(), link })
            .build()
    }
}

impl Inner {
    fn count(&mut self, name: &'static str) {
        *self.counts.entry(name).or_default() += 1;
    }

    fn run(&mut self, operation: &str, body: &Value) -> (u16, String) {
        if body["IndexName"] == "changes" {
            return (200, self.changes(body).to_string());
        }
        self.count("database: requests");
        let response = self.storage.call(operation, body.to_string().as_bytes());
        let is_write = matches!(operation, "PutItem" | "UpdateItem" | "DeleteItem");
        let is_connections =
            body["TableName"].as_str().is_some_and(|name| name.ends_with("connections"));
        if is_write && is_connections && response.0 == 200 {
            self.index_later(body);
        }
        response
    }

    /// The index shows a change after some time.
    fn index_later(&mut self, body: &Value) {
        let item = if body["Item"].is_object() { &body["Item"] } else { &body["Key"] };
        let key = json!({"shard": item["shard"], "connection_id": item["connection_id"]});
        let get = json!({"TableName": body["TableName"], "Key": key, "ConsistentRead": true});
        let (_, text) = self.storage.call("GetItem", get.to_string().as_bytes());
        let found: Value = serde_json::from_str(&text).unwrap();
        let image = found.get("Item").cloned();
        let lag = self.faults.index_lag.mul_f64(self.rng.f64());
        let text = |name: &str| key[name]["S"].as_str().unwrap_or_default().to_owned();
        let versions = self.index.entry((text("shard"), text("connection_id"))).or_default();
        // The index shows the changes of an item in order.
        let earliest = versions.last().map(|(at, _)| *at);
        let at = (Instant::now() + lag).max(earliest.unwrap_or_else(Instant::now));
        versions.push((at, image));
        if !lag.is_zero() {
            self.count("database: lags of the index");
        }
    }

    fn changes(&mut self, body: &Value) -> Value {
        let values = &body["ExpressionAttributeValues"];
        let shard = values[":shard"]["S"].as_str().unwrap_or_default();
        let since: i64 = values[":since"]["N"].as_str().unwrap().parse().unwrap();
        let now = Instant::now();
        let mut items = Vec::new();
        for ((_, _), versions) in self.index.iter().filter(|((of, _), _)| of == shard) {
            let shown = versions.iter().rev().find(|(at, _)| *at <= now);
            let Some((_, Some(image))) = shown else { continue };
            let Some(changed_at) = image["changed_at"]["N"].as_str() else { continue };
            if changed_at.parse::<i64>().is_ok_and(|at| at >= since) {
                items.push(image.clone());
            }
        }
        json!({"Count": items.len(), "ScannedCount": items.len(), "Items": items})
    }
}

impl Access {
    async fn call(self, operation: String, body: Vec<u8>) -> Result<(u16, String), ConnectorError> {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let (before, after) = {
            let rng = &mut self.database.0.lock().rng;
            (rng.u64(500..4_000), rng.u64(500..4_000))
        };
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
            if inner.rng.f64() < throttled {
                inner.count("database: throttled requests");
                error(400, "ThrottlingException")
            } else {
                let response = inner.run(&operation, &body);
                if inner.rng.f64() < lost_responses {
                    inner.count("database: lost responses");
                    error(500, "InternalServerError")
                } else {
                    response
                }
            }
        };
        time::sleep(Duration::from_micros(after)).await;
        self.link.is_up().await;
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
