//! Tests of the HTTP API.

use super::*;

fn with_http(authorizer: Option<Authorizer>, limits: GatewayLimits) -> Fixture {
    let http = HttpRoutes::to("rest", authorizer);
    Fixture::with(|config| config.http = http, limits)
}

#[tokio::test]
async fn a_request_invokes_its_function_and_returns_its_response() {
    let fixture = with_http(None, GatewayLimits::default());
    fixture.fake.on("rest", |_| {
        response(
            json!({"statusCode": 201, "headers": {"X-Own": "1"}, "cookies": ["a=1"], "body": "{}"}),
        )
    });
    let request = "POST /api/v1/a%2Fb?x=1&x=%C3%BC HTTP/1.1\r\nHost: localhost\r\nUser-Agent: ua\r\n\
         X-List: 1\r\nX-List: 2\r\nCookie: c=1; d=2\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    let (status, response) = fixture.raw(request).await;
    assert_eq!(status, 201);
    for line in ["x-own: 1\r\n", "set-cookie: a=1\r\n", "apigw-requestid: "] {
        assert!(response.contains(line), "{response}");
    }
    assert!(response.ends_with("\r\n\r\n{}"), "{response}");
    let event = redact(&fixture.fake.event("rest", 1).await);
    let expected = concat!(
        r#"{"version":"2.0","routeKey":"$default","rawPath":"/api/v1/a%2Fb","rawQueryString":"x=1&x=%C3%BC","#,
        r#""cookies":["c=1","d=2"],"headers":{"host":"localhost","user-agent":"ua","x-list":"1,2","#,
        r#""content-type":"application/json","content-length":"7","x-amzn-trace-id":*,"#,
        r#""x-forwarded-for":"127.0.0.1","x-forwarded-port":*,"x-forwarded-proto":"http"},"#,
        r#""queryStringParameters":{"x":"1,ü"},"requestContext":{"accountId":"123456789012","apiId":"local","#,
        r#""domainName":"localhost","domainPrefix":"localhost","http":{"method":"POST","path":"/api/v1/a%2Fb","#,
        r#""protocol":"HTTP/1.1","sourceIp":"127.0.0.1","userAgent":"ua"},"requestId":*,"routeKey":"$default","#,
        r#""stage":"$default","time":*,"timeEpoch":*},"body":"{\"a\":1}","isBase64Encoded":false}"#,
    );
    assert_eq!(event, expected);
}

#[tokio::test]
async fn binary_bodies_are_encoded_in_base64() {
    let fixture = with_http(None, GatewayLimits::default());
    fixture
        .raw("PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 2\r\n\r\nhi")
        .await;
    let event = fixture.fake.event("rest", 1).await;
    assert!(event.ends_with(r#""body":"aGk=","isBase64Encoded":true}"#), "{event}");
}

#[tokio::test]
async fn failures_get_the_errors_of_api_gateway() {
    let limits = GatewayLimits {
        integration: Duration::from_millis(100),
        http_body_bytes: 100,
        requests: Some(Rate::of_burst(4)),
        ..GatewayLimits::default()
    };
    let fixture = with_http(None, limits);
    let get = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let expect = async |request: &str, status: u16, message: &str| {
        let (got, response) = fixture.raw(request).await;
        assert_eq!(got, status, "{response}");
        assert!(
            response.ends_with(&format!("\r\n\r\n{{\"message\":\"{message}\"}}")),
            "{response}"
        );
    };
    fixture.fake.on("rest", |_| failure("broken"));
    expect(get, 500, "Internal Server Error").await;
    fixture.fake.on("rest", |_| response(json!({"statusCode": "x"})));
    expect(get, 500, "Internal Server Error").await;
    fixture.fake.on("rest", |_| Err(FunctionError::Unavailable("away".into())));
    expect(get, 503, "Service Unavailable").await;
    fixture.fake.set("rest", never_responds());
    expect(get, 503, "Service Unavailable").await;
    expect(get, 429, "Too Many Requests").await;
    let large = "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 101\r\n\r\n";
    expect(large, 413, "Request Entity Too Large").await;
    let chunked = format!(
        "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n\r\n",
        "x".repeat(101)
    );
    expect(&chunked, 413, "Request Entity Too Large").await;
    let long =
        format!("GET /x HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "x".repeat(10_240));
    expect(&long, 431, "Request Header Fields Too Large").await;
}

#[tokio::test]
async fn without_an_http_api_every_path_gets_404() {
    let fixture = Fixture::new();
    assert_eq!(fixture.raw("GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.0, 404);
}

#[tokio::test]
async fn the_health_check_fails_until_the_gateway_is_ready() {
    let (ready, readiness) = watch::channel(false);
    let change = |config: &mut Config| {
        config.http = HttpRoutes::to("rest", None);
        config.ready = readiness;
    };
    let fixture = Fixture::with(change, GatewayLimits::default());
    let health = "GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(fixture.raw(health).await.0, 503);
    assert_eq!(fixture.fake.events_of("rest").len(), 0);
    ready.send_replace(true);
    assert_eq!(fixture.raw(health).await.0, 200);
    assert_eq!(fixture.fake.events_of("rest").len(), 1);
}

#[tokio::test]
async fn the_authorizer_decides() {
    let authorizer = Authorizer {
        function: "authorize".to_owned(),
        identity_sources: vec![IdentitySource::Header("Authorization".to_owned())],
    };
    let fixture = with_http(Some(authorizer), GatewayLimits::default());
    let expect = async |request: &str, status: u16, end: &str| {
        let (got, response) = fixture.raw(request).await;
        assert_eq!(got, status, "{response}");
        assert!(response.ends_with(end), "{response}");
    };
    let with = "GET /x?a=b HTTP/1.1\r\nHost: localhost\r\nAuthorization: t\r\n\r\n";
    let without = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    fixture.fake.on("authorize", |_| response(json!({"isAuthorized": true, "context": {"n": 7}})));
    expect(without, 401, r#"{"message":"Unauthorized"}"#).await;
    assert_eq!(fixture.fake.events_of("authorize").len(), 0);
    expect(with, 200, "").await;
    let event = fixture.fake.event("rest", 1).await;
    assert!(event.contains(r#""authorizer":{"lambda":{"n":7}},"#), "{event}");
    let event = redact(&fixture.fake.event("authorize", 1).await);
    let start = concat!(
        r#"{"version":"2.0","type":"REQUEST","routeArn":"arn:aws:execute-api:us-east-1:123456789012:local/$default/GET/x","#,
        r#""identitySource":["t"],"routeKey":"$default","rawPath":"/x","rawQueryString":"a=b","headers":{"#,
    );
    assert!(event.starts_with(start), "{event}");
    assert!(event.ends_with(r#""time":*,"timeEpoch":*}}"#), "{event}");

    fixture.fake.on("authorize", |_| response(json!({"isAuthorized": false})));
    expect(with, 403, r#"{"message":"Forbidden"}"#).await;
    fixture.fake.on("authorize", |_| failure("Unauthorized"));
    expect(with, 401, r#"{"message":"Unauthorized"}"#).await;
    fixture.fake.on("authorize", |_| failure("broken"));
    expect(with, 500, r#"{"message":"Internal Server Error"}"#).await;
}
