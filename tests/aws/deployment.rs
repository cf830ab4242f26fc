//! `sam deploy` of the template with the real packages, and clients of what it deploys.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, process::Stdio};

use harness::{Client, Event, ExchangeServer, Ports, Program, until};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use crate::tools::Tools;

const MATCHES: &str = "coinbase/matches/BTC-USD";
const STACK: &str = "headwater-local";
const JWT_SECRET: &str = "a secret of at least thirty-two bytes";

/// SAM's name of the processor architecture of this machine.
const ARCHITECTURE: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "x86_64" };

/// The stand-in for AWS.
struct StandIn {
    address: SocketAddr,
    web: reqwest::Client,
    _child: Child,
    _ports: Ports,
}

impl StandIn {
    async fn start(tools: &Tools) -> Self {
        let ports = Ports::reserve(1);
        let address = ports.at(0);
        let child = Command::new(tools.program("stand-in", "ministack"))
            .env("BIND_HOST", "127.0.0.1")
            .env("GATEWAY_PORT", address.port().to_string())
            .env("AWS_ENDPOINT_URL", format!("http://{address}"))
            // These parts would otherwise listen on all interfaces.
            .env("IOT_MTLS_ENABLED", "0")
            .env("SFTP_ENABLED", "0")
            .env("DOCKER_HOST", "tcp://127.0.0.1:1")
            .stdout(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stand_in = Self { address, web: reqwest::Client::new(), _child: child, _ports: ports };
        until("the stand-in responds", async || {
            stand_in.web.get(stand_in.url("/_ministack/health")).send().await.ok()
        })
        .await;
        stand_in
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Returns the settings with which an AWS program connects to the stand-in.
    fn settings(&self) -> [(&'static str, String); 5] {
        [
            ("AWS_ENDPOINT_URL", self.url("")),
            ("AWS_REGION", "us-east-1".to_owned()),
            ("AWS_DEFAULT_REGION", "us-east-1".to_owned()),
            ("AWS_ACCESS_KEY_ID", "test".to_owned()),
            ("AWS_SECRET_ACCESS_KEY", "test".to_owned()),
        ]
    }

    /// Sends a JSON request to the API of API Gateway.
    async fn api(&self, method: Method, path: &str, body: &Value) -> Value {
        let request = self.web.request(method, self.url(path)).json(body);
        // The stand-in reads the service from the signature, and does not verify the signature.
        let scope = "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/apigateway/aws4_request, \
                     SignedHeaders=host, Signature=x";
        let answer = request.header("authorization", scope).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Sends a JSON request to Secrets Manager.
    async fn secrets(&self, operation: &str, body: &Value) -> Value {
        let scope = "AWS4-HMAC-SHA256 Credential=test/20261122/us-east-1/secretsmanager/aws4_request, \
                     SignedHeaders=host, Signature=x";
        let request = self
            .web
            .post(self.url("/"))
            .json(body)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("secretsmanager.{operation}"))
            .header("authorization", scope);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "{operation}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Adds `jwtSecret` to the deployment's secret, as an operator would.
    async fn enable_tokens(&self, outputs: &BTreeMap<String, String>) {
        let id = &outputs["SecretArn"];
        let made = self.secrets("GetSecretValue", &json!({"SecretId": id})).await;
        let mut secret: Value =
            serde_json::from_str(made["SecretString"].as_str().unwrap()).unwrap();
        assert!(secret["connectionSecret"].as_str().unwrap().len() >= 32, "{secret}");
        secret["jwtSecret"] = json!(JWT_SECRET);
        let put = json!({"SecretId": id, "SecretString": secret.to_string()});
        self.secrets("PutSecretValue", &put).await;
    }

    /// Runs the SAM CLI and returns its standard output.
    async fn sam(&self, tools: &Tools, arguments: &[&str]) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let output = Command::new(tools.program("aws", "sam"))
            .args(arguments)
            .current_dir(root)
            .envs(self.settings())
            .env("SAM_CLI_TELEMETRY", "0")
            .output()
            .await
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let reported = text(&output.stdout);
        let warned = text(&output.stderr);
        assert!(output.status.success(), "sam {arguments:?}: {reported}\n{warned}");
        reported
    }

    /// Deploys the output of `sam build`, and returns the outputs of the stack.
    async fn deploy(&self, tools: &Tools) -> BTreeMap<String, String> {
        let bucket = self.web.put(self.url("/headwater-artifacts")).send().await.unwrap();
        assert!(bucket.status().is_success(), "{bucket:?}");
        let callback = self.url("/_aws/execute-api/{api}/{stage}");
        let overrides = format!("Architecture={ARCHITECTURE} CallbackUrl={callback}");
        let deploy = ["deploy", "--config-env", "local", "--parameter-overrides", &overrides];
        self.sam(tools, &deploy).await;
        let list = ["list", "stack-outputs", "--config-env", "local", "--output", "json"];
        let reported = self.sam(tools, &list).await;
        let outputs: Vec<BTreeMap<String, String>> = serde_json::from_str(&reported).unwrap();
        outputs
            .into_iter()
            .filter_map(|mut output| {
                Some((output.remove("OutputKey")?, output.remove("OutputValue")?))
            })
            .collect()
    }

    /// Removes the identity source of the authorizer. The stand-in uses the header `Authorization` by
    /// default, and rejects requests without it; AWS invokes the function for every request.
    async fn admit_anonymous(&self, outputs: &BTreeMap<String, String>) {
        let path = format!("/v2/apis/{}/authorizers", outputs["WebSocketApiId"]);
        let authorizers = self.api(Method::GET, &path, &json!({})).await;
        let id = authorizers["items"][0]["authorizerId"].as_str().unwrap();
        self.api(Method::PATCH, &format!("{path}/{id}"), &json!({"identitySource": []})).await;
    }

    /// Creates the routes of the HTTP API as SAM does on AWS, because the stand-in ignores them in the
    /// template. Returns the path of the API.
    async fn route_http(&self, outputs: &BTreeMap<String, String>) -> String {
        let function = &outputs["RestFunctionArn"];
        let name = format!("{STACK}-http-routed");
        let api = self
            .api(Method::POST, "/v2/apis", &json!({"name": name, "protocolType": "HTTP"}))
            .await;
        let id = api["apiId"].as_str().unwrap();
        let integration = json!({
            "integrationType": "AWS_PROXY", "integrationUri": function, "payloadFormatVersion": "2.0",
        });
        let integration =
            self.api(Method::POST, &format!("/v2/apis/{id}/integrations"), &integration).await;
        let target = format!("integrations/{}", integration["integrationId"].as_str().unwrap());
        let authorize = &outputs["AuthorizeFunctionArn"];
        let authorizer = json!({
            "name": "Authorize", "authorizerType": "REQUEST", "authorizerPayloadFormatVersion": "2.0",
            "authorizerUri": format!(
                "arn:aws:apigateway:us-east-1:lambda:path/2015-03-31/functions/{authorize}/invocations"
            ),
            "enableSimpleResponses": true, "identitySource": [], "authorizerResultTtlInSeconds": 0,
        });
        let authorizer =
            self.api(Method::POST, &format!("/v2/apis/{id}/authorizers"), &authorizer).await;
        let route = json!({
            "routeKey": "$default", "target": target,
            "authorizationType": "CUSTOM", "authorizerId": authorizer["authorizerId"],
        });
        self.api(Method::POST, &format!("/v2/apis/{id}/routes"), &route).await;
        let stage = json!({"stageName": "$default", "autoDeploy": true});
        self.api(Method::POST, &format!("/v2/apis/{id}/stages"), &stage).await;
        format!("/_aws/execute-api/{id}/$default")
    }
}

#[tokio::test]
async fn the_template_can_be_deployed_and_works() {
    let Some(tools) = Tools::find() else { return };
    let stand_in = StandIn::start(&tools).await;
    let outputs = stand_in.deploy(&tools).await;
    stand_in.admit_anonymous(&outputs).await;
    stand_in.enable_tokens(&outputs).await;
    let exchange = ExchangeServer::start().await.unwrap();
    let settings = stand_in.settings();
    let mut variables: Vec<(&str, &str)> =
        settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let prefix = format!("{STACK}-");
    let ports = Ports::reserve(1);
    let health = ports.at(0).to_string();
    let feed = exchange.url();
    let exchange_rest = exchange.rest_url();
    variables.extend([
        ("HEADWATER_TABLE_PREFIX", prefix.as_str()),
        ("HEADWATER_PUSH_FUNCTION", outputs["PushFunction"].as_str()),
        ("HEADWATER_COINBASE_URL", feed.as_str()),
        ("HEADWATER_COINBASE_REST_URL", exchange_rest.as_str()),
        ("HEADWATER_MASTODON_SERVERS", ""),
        ("HEADWATER_HEALTH_LISTEN", health.as_str()),
        ("HEADWATER_LOG", "warn"),
    ]);
    let poller = Program::start_other("headwater-poller", &[], &variables);
    let healthy = format!("http://{health}/healthz");
    until("the poller is healthy", async || {
        let answer = reqwest::get(&healthy).await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;

    // Over the stand-in's WebSocket API, with the authorizer on $connect.
    let path = format!("/_aws/execute-api/{}/live", outputs["WebSocketApiId"]);
    let mut stranger = Client::try_connect(stand_in.address, &path, &[]).await.unwrap();
    assert_eq!(stranger.hello().await["class"], "anonymous");
    let rejected = stranger.ask(json!({"action": "subscribe", "topics": [MATCHES]})).await;
    assert_eq!((&rejected["type"], &rejected["code"]), (&json!("error"), &json!("forbidden")));
    stranger.close().await;
    let variables = [("HEADWATER_JWT_SECRET", JWT_SECRET)];
    let printed = Program::run(&["token", "--class", "trader"], &variables).await.stdout;
    let token = printed.trim();
    let mut client =
        Client::try_connect(stand_in.address, &format!("{path}?token={token}"), &[]).await.unwrap();
    let welcome = client.hello().await;
    assert_eq!(welcome["class"], "trader");
    client.subscribe(&["coinbase/ticker/BTC-USD"]).await;
    let forged = format!("{path}?token=a.b.c");
    let rejected = Client::try_connect(stand_in.address, &forged, &[]).await.err();
    assert!(matches!(rejected, Some(401 | 403 | 500)), "{rejected:?}");

    // Over REST, on that connection.
    let http = stand_in.route_http(&outputs).await;
    let rest = async |method: Method, path: &str| {
        let request = stand_in
            .web
            .request(method, stand_in.url(&format!("{http}{path}")))
            .bearer_auth(token)
            .header("x-connection-id", welcome["connectionId"].as_str().unwrap())
            .header("x-connection-token", welcome["connectionToken"].as_str().unwrap());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (status, reported) = rest(Method::GET, "/healthz").await;
    assert_eq!(status, 200, "{reported}");
    let start = "/api/v1/subscribe/BTC-USD?channel=matches";
    let (status, reported) = rest(Method::POST, start).await;
    assert_eq!(status, 201, "{reported}");
    assert_eq!(rest(Method::POST, start).await.0, 200);

    // Events arrive, in order, and are in the log.
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..25 {
        exchange.trade("BTC-USD");
    }
    let events = client.events(MATCHES, 25).await;
    let ids: Vec<u64> = events.iter().map(Event::trade_id).collect();
    assert_eq!(ids, (ids[0]..ids[0] + 25).collect::<Vec<_>>());
    let (status, reported) = rest(Method::GET, &format!("/api/v1/history/{MATCHES}?limit=3")).await;
    assert_eq!(status, 200, "{reported}");
    let reported: Value = serde_json::from_str(&reported).unwrap();
    assert_eq!(reported["events"].as_array().map(Vec::len), Some(3), "{reported}");

    // A closed connection is removed.
    let (_, reported) = rest(Method::GET, "/api/v1/status").await;
    assert!(reported.contains(r#""connections":1"#), "{reported}");
    client.close().await;
    until("the connection is removed", async || {
        let (_, reported) = rest(Method::GET, "/api/v1/status").await;
        reported.contains(r#""connections":0"#).then_some(())
    })
    .await;
    let (status, reported) = rest(Method::POST, start).await;
    assert_eq!(status, 410, "{reported}");
    poller.terminate().await;
}
