//! Tests of the management API, with the AWS SDK and with plain requests.

use aws_sdk_apigatewaymanagement::{
    Client as Sdk,
    config::{BehaviorVersion, Credentials, Region, retry::RetryConfig},
    primitives::Blob,
};

use super::*;

fn sdk(fixture: &Fixture) -> Sdk {
    let config = aws_sdk_apigatewaymanagement::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("us-east-1"))
        .credentials_provider(Credentials::new("id", "secret", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .endpoint_url(format!("http://{}/live", fixture.gateway.address()))
        .build();
    Sdk::from_conf(config)
}

#[tokio::test]
async fn the_sdk_posts_describes_and_deletes() {
    let fixture = Fixture::new();
    let (mut client, id) = fixture.connect_with_id().await;
    let sdk = sdk(&fixture);
    let post = sdk.post_to_connection().connection_id(&id).data(Blob::new("hello"));
    post.send().await.expect("posted");
    assert_eq!(next_text(&mut client).await, "hello");

    let description = sdk.get_connection().connection_id(&id).send().await.expect("described");
    let connected_at =
        description.connected_at().expect("connectedAt").to_millis().expect("in range");
    let event = fixture.fake.event("connect", 1).await;
    assert_eq!(connected_at.to_string(), field(&event, "connectedAt"));
    assert!(
        description.last_active_at().expect("lastActiveAt").to_millis().expect("in range")
            >= connected_at
    );
    let identity = description.identity().expect("identity");
    assert_eq!(identity.source_ip(), Some("127.0.0.1"));

    sdk.delete_connection().connection_id(&id).send().await.expect("deleted");
    assert_eq!(next_close(&mut client).await, (1000, "Connection Closed Normally".to_owned()));
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1000");
    assert_eq!(field(&event, "disconnectReason"), "Connection Closed Normally");

    let error = sdk.post_to_connection().connection_id(&id).data(Blob::new("x")).send().await;
    assert!(error.expect_err("gone").into_service_error().is_gone_exception());
    let error = sdk.get_connection().connection_id(&id).send().await;
    assert!(error.expect_err("gone").into_service_error().is_gone_exception());
    let error = sdk.delete_connection().connection_id(&id).send().await;
    assert!(error.expect_err("gone").into_service_error().is_gone_exception());
}

#[tokio::test]
async fn the_sdk_recognizes_the_errors() {
    let limits = GatewayLimits { requests: Some(Rate::of_burst(4)), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let (mut client, id) = fixture.connect_with_id().await;
    let sdk = sdk(&fixture);
    let post =
        |data: Vec<u8>| sdk.post_to_connection().connection_id(&id).data(Blob::new(data)).send();
    let error = post(vec![b'x'; 131_073]).await.expect_err("too large").into_service_error();
    assert!(error.is_payload_too_large_exception(), "{error:?}");
    post(vec![b'x'; 131_072]).await.expect("the largest message");
    assert_eq!(next_text(&mut client).await.len(), 131_072);
    let error = post(vec![0xFF]).await.expect_err("not UTF-8").into_service_error();
    assert_eq!(error.meta().code(), Some("BadRequestException"));
    let error = post(vec![b'x']).await.expect_err("over the rate").into_service_error();
    assert!(error.is_limit_exceeded_exception(), "{error:?}");
}

#[tokio::test]
async fn a_post_to_a_client_that_does_not_read_exceeds_a_limit() {
    let limits = GatewayLimits { socket_buffer_bytes: 8_192, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let (_stuck, id) = fixture.connect_with_id().await;
    fill(&fixture.gateway.sockets(), &id);
    let post =
        sdk(&fixture).post_to_connection().connection_id(&id).data(Blob::new(vec![b'x'; 60_000]));
    let error = post.send().await.expect_err("busy").into_service_error();
    assert!(error.is_limit_exceeded_exception(), "{error:?}");
}

#[tokio::test]
async fn paths_and_ids_may_be_encoded() {
    let fixture = Fixture::new();
    let (mut client, id) = fixture.connect_with_id().await;
    let bare = id.trim_end_matches('=');
    for path in [
        format!("/live/@connections/{bare}="),
        format!("/live/@connections/{bare}%3D"),
        format!("/live/%40connections/{bare}%3d"),
    ] {
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS4-HMAC-SHA256 a\r\nContent-Length: 2\r\n\r\nhi"
        );
        let (status, response) = fixture.raw(&request).await;
        assert_eq!(status, 200, "case: {path}");
        assert!(response.ends_with("\r\n\r\n"), "an empty body: {response}");
        assert_eq!(next_text(&mut client).await, "hi", "case: {path}");
    }
}

#[tokio::test]
async fn errors_have_their_type_and_body() {
    let fixture = Fixture::new();
    let gone = "TXzPWdnOjoECGjA=";
    let cases = [
        ("POST", format!("/live/@connections/{gone}"), 410, "GoneException", ""),
        ("GET", format!("/live/@connections/{gone}"), 410, "GoneException", ""),
        ("DELETE", format!("/live/@connections/{gone}"), 410, "GoneException", ""),
        (
            "POST",
            "/live/@connections/odd".to_owned(),
            400,
            "BadRequestException",
            r#"{"message":"Invalid connectionId: odd"}"#,
        ),
        (
            "POST",
            format!("/test/@connections/{gone}"),
            403,
            "ForbiddenException",
            r#"{"message":"Forbidden"}"#,
        ),
        (
            "POST",
            format!("/@connections/{gone}"),
            403,
            "ForbiddenException",
            r#"{"message":"Forbidden"}"#,
        ),
        (
            "PUT",
            format!("/live/@connections/{gone}"),
            403,
            "ForbiddenException",
            r#"{"message":"Forbidden"}"#,
        ),
    ];
    for (method, path, expected, error_type, body) in cases {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS4-HMAC-SHA256 a\r\nContent-Length: 0\r\n\r\n"
        );
        let (status, response) = fixture.raw(&request).await;
        assert_eq!(status, expected, "case: {method} {path}");
        let header = format!("x-amzn-errortype: {error_type}\r\n");
        assert!(response.contains(&header), "case: {method} {path}: {response}");
        assert!(
            response.ends_with(&format!("\r\n\r\n{body}")),
            "case: {method} {path}: {response}"
        );
    }
}

#[tokio::test]
async fn times_are_iso_8601_with_milliseconds() {
    let fixture = Fixture::new();
    let (_client, id) = fixture.connect_with_id().await;
    let request = format!(
        "GET /live/@connections/{id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS4-HMAC-SHA256 a\r\n\r\n"
    );
    let (status, response) = fixture.raw(&request).await;
    assert_eq!(status, 200);
    let (_, body) = response.split_once("\r\n\r\n").expect("a body");
    let body: Value = serde_json::from_str(body).expect("JSON");
    for name in ["connectedAt", "lastActiveAt"] {
        let time = body[name].as_str().expect("text");
        assert_eq!(time.len(), "2025-02-03T01:46:33.523Z".len(), "{time}");
        assert!(time.ends_with('Z'), "{time}");
    }
    assert_eq!(body["identity"], json!({"sourceIp": "127.0.0.1", "userAgent": null}));
}

#[tokio::test]
async fn the_management_api_can_be_disabled() {
    let fixture =
        Fixture::with(|config| config.callbacks = Callbacks::Off, GatewayLimits::default());
    let (_client, id) = fixture.connect_with_id().await;
    let request = format!(
        "GET /live/@connections/{id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS4-HMAC-SHA256 a\r\n\r\n"
    );
    assert_eq!(fixture.raw(&request).await.0, 403);
}
