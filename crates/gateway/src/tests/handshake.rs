//! Tests of handshakes: statuses, events, subprotocols and authorizers.

use super::*;

fn policy(effect: &str, resource: &str) -> Value {
    json!({
        "principalId": "user-42",
        "policyDocument": {"Version": "2012-10-17", "Statement": [
            {"Action": "execute-api:Invoke", "Effect": effect, "Resource": resource}]},
        "context": {"tenant": "t1"},
    })
}

fn with_authorizer(identity_sources: Vec<IdentitySource>) -> Fixture {
    let authorizer = Authorizer { function: "authorize".to_owned(), identity_sources };
    let change = |config: &mut Config| config.authorizer = Some(authorizer);
    let limits =
        GatewayLimits { authorizer: Duration::from_millis(100), ..GatewayLimits::default() };
    let fixture = Fixture::with(change, limits);
    fixture.fake.on("authorize", |event| {
        response(policy("Allow", event["methodArn"].as_str().expect("text")))
    });
    fixture
}

#[tokio::test]
async fn connect_decides_the_status() {
    let limits =
        GatewayLimits { integration: Duration::from_millis(100), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let cases: [(&str, Handler, u16); 11] = [
        ("201", responds(json!({"statusCode": 201})), 101),
        ("301", responds(json!({"statusCode": 301})), 301),
        ("401", responds(json!({"statusCode": 401, "body": "no"})), 401),
        ("403 as text", responds(json!({"statusCode": "403"})), 403),
        ("501", responds(json!({"statusCode": 501})), 501),
        ("no status", responds(json!({})), 502),
        ("null", responds(Value::Null), 502),
        ("an unknown key", responds(json!({"statusCode": 200, "a": 1})), 502),
        ("an error", fails("broken"), 502),
        ("the function's timeout", times_out(), 502),
        ("the integration timeout", never_responds(), 504),
    ];
    for (name, handler, expected) in cases {
        fixture.fake.set("connect", handler);
        let (status, _) = fixture.raw(&upgrade("/live", "")).await;
        assert_eq!(status, expected, "case: {name}");
    }
    fixture.fake.on("connect", |_| Err(FunctionError::Unavailable("no permission".into())));
    assert_eq!(rejection(fixture.url()).await, 500);
}

#[tokio::test]
async fn malformed_handshakes_are_rejected() {
    let fixture = Fixture::new();
    let plain = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned();
    let long = upgrade(&format!("/live?{}", "x".repeat(4_091)), "");
    let cases = [
        ("no upgrade", plain, 426),
        ("an old version", upgrade("/live", "").replace("Version: 13", "Version: 8"), 426),
        ("POST", upgrade("/live", "").replace("GET", "POST"), 426),
        ("no key", upgrade("/live", "").replace("Sec-WebSocket-Key", "Key"), 400),
        ("a long URL", long, 414),
        ("another stage", upgrade("/test", ""), 403),
        ("no stage", upgrade("/", ""), 403),
        ("a slash at the end", upgrade("/live/", ""), 101),
        ("the longest URL", upgrade(&format!("/live?{}", "x".repeat(4_090)), ""), 101),
    ];
    for (name, request, expected) in cases {
        let (status, _) = fixture.raw(&request).await;
        assert_eq!(status, expected, "case: {name}");
    }
}

#[tokio::test]
async fn the_handshake_waits_for_connect() {
    let fixture = Fixture::new();
    let permits = fixture.fake.hold("connect");
    let mut connecting = Box::pin(connect_async(fixture.url()));
    let id = tokio::select! {
        _ = &mut connecting => panic!("the handshake completed before $connect"),
        event = fixture.fake.event("connect", 1) => field(&event, "connectionId"),
    };
    let sockets = fixture.gateway.sockets();
    assert!(matches!(sockets.post_to(&id, b"early"), Err(PostError::Gone)));
    permits.add_permits(1);
    connecting.await.expect("101");
    fixture.wait_until_registered(&id).await;
    sockets.post_to(&id, b"in time").expect("posted");
}

#[tokio::test]
async fn disconnect_runs_for_a_client_that_is_lost_during_connect() {
    let fixture = Fixture::new();
    let permits = fixture.fake.hold("connect");
    let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    stream.write_all(upgrade("/live", "").as_bytes()).await.expect("written");
    let connected = fixture.fake.event("connect", 1).await;
    drop(stream);
    permits.add_permits(1);
    let disconnected = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&connected, "connectionId"), field(&disconnected, "connectionId"));
    assert_eq!(field(&disconnected, "disconnectStatusCode"), "1006");
}

#[tokio::test]
async fn connect_chooses_the_subprotocol() {
    let fixture = Fixture::new();
    let offer = upgrade(
        "/live",
        "Sec-WebSocket-Protocol: a, b\r\nSec-WebSocket-Extensions: permessage-deflate\r\n",
    );
    let (_, head) = fixture.raw(&offer).await;
    assert!(!head.contains("sec-websocket-protocol"), "{head}");
    assert!(!head.contains("sec-websocket-extensions"), "{head}");
    assert!(head.contains("sec-websocket-accept: "), "{head}");
    fixture.fake.on("connect", |_| {
        response(
            json!({"statusCode": 200, "headers": {"sec-websocket-protocol": "b", "X-Other": "c"}}),
        )
    });
    let (status, head) = fixture.raw(&offer).await;
    assert_eq!(status, 101);
    assert!(head.contains("sec-websocket-protocol: b\r\n"), "{head}");
    assert!(!head.contains("x-other"), "{head}");
}

#[tokio::test]
async fn without_a_connect_route_every_client_is_accepted() {
    let fixture =
        Fixture::with(|config| config.routes = Routes::default(), GatewayLimits::default());
    let mut client = fixture.connect().await;
    send(&mut client, "hello").await;
    assert!(next_text(&mut client).await.starts_with(r#"{"message": "Forbidden", "#));
}

#[tokio::test]
async fn the_connect_event_is_that_of_api_gateway() {
    let fixture = Fixture::new();
    let headers = "Origin: https://app.example\r\nUser-Agent: Mozilla/5.0\r\nX-ApiKey: k\r\nx-list: 1\r\nx-list: 2\r\n";
    fixture.raw(&upgrade("/live?token=a%20b&x=1&x=2", headers)).await;
    let event = fixture.fake.event("connect", 1).await;
    let expected = concat!(
        r#"{"headers":{"Host":"localhost","Origin":"https://app.example","Sec-WebSocket-Key":"DM+9PqsQtaZrN+IMZbWTzg==","#,
        r#""Sec-WebSocket-Version":"13","User-Agent":"Mozilla/5.0","X-Amzn-Trace-Id":*,"X-ApiKey":"k","#,
        r#""X-Forwarded-For":"127.0.0.1","X-Forwarded-Port":*,"X-Forwarded-Proto":"http","x-list":"2"},"#,
        r#""multiValueHeaders":{"Host":["localhost"],"Origin":["https://app.example"],"Sec-WebSocket-Key":["DM+9PqsQtaZrN+IMZbWTzg=="],"#,
        r#""Sec-WebSocket-Version":["13"],"User-Agent":["Mozilla/5.0"],"X-Amzn-Trace-Id":[*],"X-ApiKey":["k"],"#,
        r#""X-Forwarded-For":["127.0.0.1"],"X-Forwarded-Port":[*],"X-Forwarded-Proto":["http"],"x-list":["1","2"]},"#,
        r#""queryStringParameters":{"token":"a b","x":"2"},"multiValueQueryStringParameters":{"token":["a b"],"x":["1","2"]},"#,
        r#""requestContext":{"routeKey":"$connect","eventType":"CONNECT","extendedRequestId":*,"requestTime":*,"#,
        r#""messageDirection":"IN","stage":"live","connectedAt":*,"requestTimeEpoch":*,"#,
        r#""identity":{"userAgent":"Mozilla/5.0","sourceIp":"127.0.0.1"},"requestId":*,"domainName":"localhost","#,
        r#""connectionId":*,"apiId":"local"},"isBase64Encoded":false}"#,
    );
    assert_eq!(redact(&event), expected);
    assert_eq!(field(&event, "requestId"), field(&event, "extendedRequestId"));
    let request: aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest =
        serde_json::from_str(&event).expect("the Lambda runtime can parse it");
    assert!(request.request_context.connected_at <= request.request_context.request_time_epoch);
}

#[tokio::test]
async fn without_a_query_the_event_has_no_query_fields() {
    let fixture = Fixture::new();
    fixture.raw(&upgrade("/live", "")).await;
    let event = fixture.fake.event("connect", 1).await;
    assert!(!event.to_lowercase().contains("querystringparameters"), "{event}");
    assert!(event.contains(r#""identity":{"sourceIp":"127.0.0.1"}"#), "{event}");
}

#[tokio::test]
async fn a_handshake_may_follow_another_request_on_its_connection() {
    let fixture = Fixture::new();
    let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    stream.write_all(b"GET /x HTTP/1.1\r\nHOST: localhost\r\n\r\n").await.expect("written");
    assert_eq!(read_response(&mut stream).await.0, 404);
    stream.write_all(upgrade("/live", "").as_bytes()).await.expect("written");
    assert_eq!(read_response(&mut stream).await.0, 101);
    let event = fixture.fake.event("connect", 1).await;
    assert!(event.starts_with(r#"{"headers":{"Host":"localhost","#), "{event}");
}

#[tokio::test]
async fn the_authorizer_decides() {
    let fixture = with_authorizer(vec![IdentitySource::Query("token".to_owned())]);
    let with_token = || format!("{}?token=t", fixture.url());
    assert_eq!(rejection(fixture.url()).await, 401, "no token");
    assert_eq!(rejection(format!("{}?token=", fixture.url())).await, 401, "an empty token");
    assert_eq!(fixture.fake.events_of("authorize").len(), 0);

    let _open = connect_async(with_token()).await.expect("101");
    let cases: [(&str, Handler, u16); 6] = [
        ("a deny", responds(policy("Deny", "*")), 403),
        ("an allow for something else", responds(policy("Allow", "arn:aws:other")), 403),
        ("an error", fails("broken"), 500),
        ("the error Unauthorized", fails("Unauthorized"), 401),
        ("a malformed response", responds(json!({"isAuthorized": true})), 500),
        ("a timeout", never_responds(), 500),
    ];
    for (name, handler, expected) in cases {
        fixture.fake.set("authorize", handler);
        assert_eq!(rejection(with_token()).await, expected, "case: {name}");
    }
    assert_eq!(
        fixture.fake.events_of("connect").len(),
        1,
        "$connect ran for the accepted client only"
    );
    assert_eq!(fixture.fake.events_of("disconnect").len(), 0);
}

#[tokio::test]
async fn the_authorizer_event_is_that_of_api_gateway() {
    let fixture = with_authorizer(Vec::new());
    fixture.raw(&upgrade("/live?token=abc", "HeaderAuth1: v\r\nUser-Agent: ua\r\n")).await;
    let event = fixture.fake.event("authorize", 1).await;
    let expected = concat!(
        r#"{"type":"REQUEST","methodArn":"arn:aws:execute-api:us-east-1:123456789012:local/live/$connect","#,
        r#""headers":{"Connection":"keep-alive, Upgrade","HeaderAuth1":"v","Host":"localhost","#,
        r#""Sec-WebSocket-Key":"DM+9PqsQtaZrN+IMZbWTzg==","Sec-WebSocket-Version":"13","Upgrade":"websocket","#,
        r#""User-Agent":"ua","X-Amzn-Trace-Id":*,"X-Forwarded-For":"127.0.0.1","X-Forwarded-Port":*,"#,
        r#""X-Forwarded-Proto":"http","content-length":"0"},"multiValueHeaders":"#,
    );
    let redacted = redact(&event);
    assert!(redacted.starts_with(expected), "{redacted}");
    let expected = concat!(
        r#""queryStringParameters":{"token":"abc"},"multiValueQueryStringParameters":{"token":["abc"]},"stageVariables":{},"#,
        r#""requestContext":{"routeKey":"$connect","eventType":"CONNECT","extendedRequestId":*,"requestTime":*,"#,
        r#""messageDirection":"IN","stage":"live","connectedAt":*,"requestTimeEpoch":*,"#,
        r#""identity":{"sourceIp":"127.0.0.1","userAgent":"ua"},"requestId":*,"domainName":"localhost","#,
        r#""connectionId":*,"apiId":"local"}}"#,
    );
    assert!(redacted.ends_with(expected), "{redacted}");
}

#[tokio::test]
async fn every_event_has_the_authorizers_context() {
    let fixture = with_authorizer(Vec::new());
    let mut client = fixture.connect().await;
    send(&mut client, "hello").await;
    let context = r#""authorizer":{"principalId":"user-42","tenant":"t1","integrationLatency":*}}"#;
    for function in ["connect", "default"] {
        let event = redact(&fixture.fake.event(function, 1).await);
        assert!(event.contains(context), "{function}: {event}");
    }
    client.close(None).await.expect("closed");
    let event = redact(&fixture.fake.event("disconnect", 1).await);
    assert!(event.contains(context), "{event}");
}

#[tokio::test]
async fn the_rate_of_handshakes_is_limited() {
    let rate = Rate::of_burst(2);
    let limits = GatewayLimits { connects: Some(rate), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let _first = fixture.connect().await;
    let _second = fixture.connect().await;
    assert_eq!(rejection(fixture.url()).await, 429);
}
