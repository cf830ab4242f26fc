//! Tests of messages from clients: events, routes, error messages, violations and close frames.

use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};

use super::*;

#[tokio::test]
async fn the_message_event_is_that_of_api_gateway() {
    let fixture = Fixture::new();
    let (mut client, id) = fixture.connect_with_id().await;
    send(&mut client, r#"{"action":"one","text":"grüß"}"#).await;
    let event = fixture.fake.event("one", 1).await;
    let host = fixture.gateway.address();
    let expected = format!(
        "{}{host}{}",
        concat!(
            r#"{"requestContext":{"routeKey":"one","messageId":*,"eventType":"MESSAGE","extendedRequestId":*,"#,
            r#""requestTime":*,"messageDirection":"IN","stage":"live","connectedAt":*,"requestTimeEpoch":*,"#,
            r#""identity":{"sourceIp":"127.0.0.1"},"requestId":*,"domainName":""#,
        ),
        concat!(
            r#"","connectionId":*,"apiId":"local"},"#,
            r#""body":"{\"action\":\"one\",\"text\":\"grüß\"}","isBase64Encoded":false}"#,
        ),
    );
    assert_eq!(redact(&event), expected);
    assert_eq!(field(&event, "connectionId"), id);
    assert_eq!(
        field(&event, "connectedAt"),
        field(&fixture.fake.event("connect", 1).await, "connectedAt")
    );
    serde_json::from_str::<aws_lambda_events::apigw::ApiGatewayWebsocketProxyRequest>(&event)
        .expect("the Lambda runtime can parse it");
}

#[tokio::test]
async fn two_way_routes_send_the_body_and_one_way_routes_do_not() {
    let fixture = Fixture::new();
    let mut client = fixture.connect().await;
    fixture.fake.on("one", |_| response(json!({"statusCode": 200, "body": "not sent"})));
    fixture.fake.on("two", |event| response(json!({"statusCode": 500, "body": event["body"]})));
    send(&mut client, r#"{"action":"one"}"#).await;
    fixture.fake.event("one", 1).await;
    send(&mut client, r#"{"action":"two","n":1}"#).await;
    assert_eq!(next_text(&mut client).await, r#"{"action":"two","n":1}"#);
}

#[tokio::test]
async fn errors_are_the_messages_of_api_gateway() {
    let limits =
        GatewayLimits { integration: Duration::from_millis(100), ..GatewayLimits::default() };
    let change = |config: &mut Config| {
        config.routes = Routes::default().with("$connect", "connect").with("one", "one");
    };
    let fixture = Fixture::with(change, limits);
    let (mut client, id) = fixture.connect_with_id().await;
    let cases: [(&str, Handler, &str); 6] = [
        ("unknown key", responds(json!({"statusCode": 200, "a": 1})), "Internal server error"),
        ("null", responds(Value::Null), "Internal server error"),
        ("an error", fails("x"), "Internal server error"),
        ("the function's timeout", times_out(), "Internal server error"),
        (
            "no function",
            Arc::new(|_| std::future::ready(Err(FunctionError::Unavailable("x".into()))).boxed()),
            "Internal server error",
        ),
        ("the integration timeout", never_responds(), "Endpoint request timed out"),
    ];
    for (name, handler, expected) in cases {
        fixture.fake.set("one", handler);
        send(&mut client, r#"{"action":"one"}"#).await;
        let frame = next_text(&mut client).await;
        let start = format!(r#"{{"message": "{expected}", "connectionId":"{id}", "requestId":""#);
        assert!(frame.starts_with(&start) && frame.ends_with("=\"}"), "case: {name}: {frame}");
        assert_eq!(frame.len(), start.len() + 18, "case: {name}: {frame}");
    }
    send(&mut client, "no route").await;
    let frame = next_text(&mut client).await;
    let start = format!(r#"{{"message": "Forbidden", "connectionId":"{id}", "requestId":""#);
    assert!(frame.starts_with(&start), "{frame}");
}

#[tokio::test]
async fn messages_above_the_rate_limit_get_an_error() {
    let limits = GatewayLimits { requests: Some(Rate::of_burst(2)), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let mut client = fixture.connect().await;
    send(&mut client, "first").await;
    fixture.fake.event("default", 1).await;
    send(&mut client, "second").await;
    assert!(next_text(&mut client).await.starts_with(r#"{"message": "Too Many Requests", "#));
}

#[tokio::test]
async fn functions_process_several_messages_at_the_same_time_up_to_a_limit() {
    let limits = GatewayLimits { in_flight: 3, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let permits = fixture.fake.hold("default");
    let (mut client, id) = fixture.connect_with_id().await;
    for n in 0..8 {
        send(&mut client, &n.to_string()).await;
    }
    fixture.fake.event("default", 3).await;
    let socket = fixture.gateway.sockets().find(&id).expect("open");
    assert!(socket.is_busy(3));
    assert_eq!(fixture.fake.events_of("default").len(), 3, "the others wait");
    permits.add_permits(1);
    fixture.fake.event("default", 4).await;
    permits.add_permits(7);
    fixture.fake.event("default", 8).await;
}

#[tokio::test]
async fn a_panic_in_a_function_does_not_block_the_connection() {
    let fixture = Fixture::with_limits(GatewayLimits { in_flight: 1, ..GatewayLimits::default() });
    let mut client = fixture.connect().await;
    fixture.fake.set("one", Arc::new(|_| async { panic!("on purpose") }.boxed()));
    send(&mut client, r#"{"action":"one"}"#).await;
    send(&mut client, "after").await;
    fixture.fake.event("default", 1).await;
}

#[tokio::test]
async fn pings_get_pongs_and_reach_no_function() {
    let fixture = Fixture::new();
    let mut client = fixture.connect().await;
    client.send(Message::Ping("are you there".into())).await.expect("sent");
    assert_eq!(next(&mut client).await, Message::Pong("are you there".into()));
    assert_eq!(fixture.fake.events_of("default").len(), 0);
}

#[tokio::test]
async fn a_message_right_after_the_handshake_is_not_lost() {
    let fixture = Fixture::new();
    let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    let frame = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
    let bytes = [upgrade("/live", "").as_bytes(), &frame].concat();
    stream.write_all(&bytes).await.expect("written");
    assert!(fixture.fake.event("default", 1).await.contains(r#""body":"hi""#));
}

#[tokio::test]
async fn a_message_may_have_several_frames() {
    let fixture = Fixture::new();
    let mut stream = fixture.raw_socket().await;
    for (first, part) in [(0x01_u8, b'a'), (0x00, b'b'), (0x80, b'c')] {
        stream.write_all(&[first, 0x81, 0, 0, 0, 0, part]).await.expect("written");
    }
    assert!(fixture.fake.event("default", 1).await.contains(r#""body":"abc""#));
}

#[tokio::test]
async fn violations_close_the_connection_with_their_code() {
    let fixture = Fixture::new();
    let large = [vec![0x81, 0xFE, 0x80, 0x01, 0, 0, 0, 0], vec![b'x'; 32_769]].concat();
    let mut too_long = Vec::new();
    for first in [0x01, 0x00, 0x00, 0x00, 0x80] {
        too_long.extend([first, 0xFE, 0x80, 0x00, 0, 0, 0, 0]);
        too_long.extend(vec![b'x'; 32_768]);
    }
    let cases = [
        ("binary", vec![0x82, 0x81, 0, 0, 0, 0, 1], 1003),
        ("not UTF-8", vec![0x81, 0x81, 0, 0, 0, 0, 0xFF], 1007),
        ("no mask", vec![0x81, 0x01, b'x'], 1002),
        ("reserved bits", vec![0xF1, 0x81, 0, 0, 0, 0, b'x'], 1002),
        ("a large frame", large, 1009),
        ("a large message", too_long, 1009),
    ];
    for (n, (name, bytes, expected)) in cases.into_iter().enumerate() {
        let mut stream = fixture.raw_socket().await;
        stream.write_all(&bytes).await.expect("written");
        let mut answer = Vec::new();
        let read = time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
        read.expect("closed in time").expect("closed without a reset");
        assert_eq!(answer[0], 0x88, "case: {name}");
        assert_eq!(u16::from_be_bytes([answer[2], answer[3]]), expected, "case: {name}");
        let event = fixture.fake.event("disconnect", n + 1).await;
        assert_eq!(field(&event, "disconnectStatusCode"), expected.to_string(), "case: {name}");
    }
    assert_eq!(fixture.fake.events_of("default").len(), 0);
}

#[tokio::test]
async fn the_disconnect_event_reports_how_the_client_closed() {
    let fixture = Fixture::new();
    let frame = |code: u16, reason: &'static str| CloseFrame {
        code: CloseCode::from(code),
        reason: reason.into(),
    };
    let cases = [
        (None, "1005", "Client-side close frame status not set"),
        (Some(frame(1000, "done")), "1000", "done"),
        (Some(frame(4001, "grün")), "4001", "grün"),
    ];
    for (n, (frame, code, reason)) in cases.into_iter().enumerate() {
        let mut client = fixture.connect().await;
        client.send(Message::Close(frame.clone())).await.expect("sent");
        assert_eq!(next(&mut client).await, Message::Close(frame), "the echo");
        assert!(client.next().await.is_none(), "the end");
        let event = fixture.fake.event("disconnect", n + 1).await;
        assert_eq!(field(&event, "disconnectStatusCode"), code);
        assert_eq!(field(&event, "disconnectReason"), reason);
    }
    drop(fixture.connect().await);
    let event = fixture.fake.event("disconnect", 4).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1006");
    until("the table is empty", || fixture.gateway.sockets().is_empty()).await;
}

#[tokio::test]
async fn the_disconnect_event_is_that_of_api_gateway() {
    let fixture = Fixture::new();
    let mut request = fixture.url().into_client_request().expect("a URL");
    request.headers_mut().insert("User-Agent", "ua".parse().expect("text"));
    let (mut client, _) = connect_async(request).await.expect("101");
    client.close(None).await.expect("closed");
    let event = fixture.fake.event("disconnect", 1).await;
    let host = fixture.gateway.address().to_string();
    let expected = concat!(
        r#"{"headers":{"Host":"HOST","x-api-key":"","X-Forwarded-For":"","x-restapi":""},"#,
        r#""multiValueHeaders":{"Host":["HOST"],"x-api-key":[""],"X-Forwarded-For":[""],"x-restapi":[""]},"#,
        r#""requestContext":{"routeKey":"$disconnect","disconnectStatusCode":1005,"eventType":"DISCONNECT","#,
        r#""extendedRequestId":*,"requestTime":*,"messageDirection":"IN","#,
        r#""disconnectReason":"Client-side close frame status not set","stage":"live","connectedAt":*,"#,
        r#""requestTimeEpoch":*,"identity":{"userAgent":"ua","sourceIp":"127.0.0.1"},"requestId":*,"#,
        r#""domainName":"HOST","connectionId":*,"apiId":"local"},"isBase64Encoded":false}"#,
    );
    assert_eq!(redact(&event), expected.replace("HOST", &host));
}
