//! The package of each function, under AWS's Runtime Interface Emulator, with one event of each kind.

use std::{path::Path, process::Stdio};

use harness::{Ports, Program, until};
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::tools::Tools;

const SECRET: &str = "a secret that is thirty-two bytes long";

/// A function in the emulator.
struct Function {
    url: String,
    _child: Child,
    _ports: Ports,
    _folder: tempfile::TempDir,
}

impl Function {
    fn start(tools: &Tools, name: &str, database: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        unzip(&tools.bootstrap(name), folder.path());
        let ports = Ports::reserve(2);
        let address = ports.at(0);
        let runtime = ports.at(1);
        let child = Command::new(tools.runtime_emulator())
            .args(["--log-level", "error"])
            .args(["--runtime-interface-emulator-address", &address.to_string()])
            .args(["--runtime-api-address", &runtime.to_string()])
            .arg(folder.path().join("bootstrap"))
            .env_clear()
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "x")
            .env("AWS_SECRET_ACCESS_KEY", "x")
            .env("AWS_ENDPOINT_URL_DYNAMODB", database)
            .env("HEADWATER_CONNECTION_SECRET", SECRET)
            // No server listens there. A failed post must not fail the invocation.
            .env("HEADWATER_CALLBACK_URL", "http://127.0.0.1:9")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let url = format!("http://{address}/2015-03-31/functions/function/invocations");
        Self { url, _child: child, _ports: ports, _folder: folder }
    }

    /// Invokes the function. The emulator accepts one event at a time.
    async fn invoke(&self, event: &Value) -> Value {
        let client = reqwest::Client::new();
        until("the emulator responds", async || {
            let answer = client.post(&self.url).json(event).send().await.ok()?;
            answer.json().await.ok()
        })
        .await
    }
}

#[tokio::test]
async fn each_package_responds_to_each_kind_of_event() {
    let Some(tools) = Tools::find() else { return };
    let ports = Ports::reserve(1);
    let database = ports.at(0).to_string();
    let _database = Program::start(&["database", "--listen", &database], &[]);
    let database = format!("http://{database}");
    until("the database responds", async || reqwest::get(&database).await.ok()).await;

    let authorize = Function::start(&tools, "authorize", &database);
    let arn = "arn:aws:execute-api:us-east-1:123456789012:abc/live/$connect";
    let handshake = json!({
        "type": "REQUEST", "methodArn": arn, "headers": {}, "multiValueHeaders": {},
        "requestContext": {"routeKey": "$connect", "eventType": "CONNECT", "stage": "live", "apiId": "abc"},
    });
    let answer = authorize.invoke(&handshake).await;
    assert_eq!(answer["policyDocument"]["Statement"][0]["Effect"], "Allow", "{answer}");
    let mut request = http("GET", "/healthz");
    request["routeArn"] =
        json!("arn:aws:execute-api:us-east-1:123456789012:abc/$default/GET/healthz");
    request["type"] = json!("REQUEST");
    let answer = authorize.invoke(&request).await;
    assert_eq!(answer["isAuthorized"], true, "{answer}");
    let mut forged = handshake.clone();
    forged["headers"] = json!({"Authorization": "Bearer a.b.c"});
    let answer = authorize.invoke(&forged).await;
    assert_eq!(answer["errorMessage"], "Unauthorized", "{answer}");

    let connection = Function::start(&tools, "connection", &database);
    for (kind, body) in [
        ("CONNECT", Value::Null),
        ("MESSAGE", json!(r#"{"action":"subscribe","topics":["mastodon/public"]}"#)),
        ("MESSAGE", json!("not JSON")),
        ("DISCONNECT", Value::Null),
    ] {
        let answer = connection.invoke(&web_socket(kind, &body)).await;
        assert_eq!(answer["statusCode"], 200, "case: {kind} {body} {answer}");
    }

    let rest = Function::start(&tools, "rest", &database);
    for (method, path, status) in [
        ("GET", "/healthz", 200),
        ("GET", "/api/v1/status", 200),
        ("GET", "/api/v1/history/mastodon/public", 200),
        ("POST", "/api/v1/subscribe/BTC-USD", 401),
        ("GET", "/api/v1/history/mastodon/nothing", 404),
    ] {
        let answer = rest.invoke(&http(method, path)).await;
        assert_eq!(answer["statusCode"], status, "case: {method} {path} {answer}");
    }

    let push = Function::start(&tools, "push", &database);
    let frame = json!({"topic": "mastodon/public", "seq": 1, "at": "2026-11-22T10:00:00.000000Z", "events": [{}]});
    let stretch =
        json!({"topic": "mastodon/public", "prev": 0, "to": 1, "entries": [{"frame": frame}]});
    let job = json!({"shard": 0, "time_ms": 2_000, "posts": 100, "stretches": [stretch]});
    let served = json!({"mastodon/public": 1});
    let report = json!({"served": served, "posts": 0, "refused": 0, "unfinished": 0});
    assert_eq!(push.invoke(&job).await, report);
    let answer = push.invoke(&json!({"shard": "none"})).await;
    assert!(answer["errorMessage"].is_string(), "{answer}");
}

fn web_socket(kind: &str, body: &Value) -> Value {
    json!({
        "requestContext": {
            "routeKey": "$default", "eventType": kind, "stage": "live", "apiId": "abc", "connectionId": "id=",
            "domainName": "abc.example.org", "connectedAt": 1_700_000_000_000_i64,
            "requestTimeEpoch": 1_700_000_000_000_i64, "requestId": "r", "messageDirection": "IN",
            "authorizer": {"principalId": "anonymous", "class": "anonymous"},
        },
        "headers": {}, "multiValueHeaders": {}, "isBase64Encoded": false, "body": body,
    })
}

fn http(method: &str, path: &str) -> Value {
    json!({
        "version": "2.0", "routeKey": "$default", "rawPath": path, "rawQueryString": "", "headers": {},
        "requestContext": {
            "accountId": "123456789012", "apiId": "abc", "domainName": "abc.example.org", "domainPrefix": "abc",
            "http": {"method": method, "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "test"},
            "requestId": "r", "routeKey": "$default", "stage": "$default",
            "time": "22/Nov/2026:10:00:00 +0000", "timeEpoch": 1_700_000_000_000_i64,
            "authorizer": {"lambda": {"principalId": "anonymous", "class": "anonymous"}},
        },
        "isBase64Encoded": false,
    })
}

fn unzip(package: &Path, folder: &Path) {
    // Python is installed with the tools, and can read the zip.
    let done = std::process::Command::new("python3")
        .args(["-m", "zipfile", "-e"])
        .args([package, folder])
        .status();
    assert!(done.unwrap().success());
    let executable = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(folder.join("bootstrap"), executable).unwrap();
}
