//! Requests that are ambiguous, or that come from where nobody should call.

use super::*;

/// The signature header of an AWS SDK.
const SIGNED: &str = "Authorization: AWS4-HMAC-SHA256 Credential=local\r\n";

#[tokio::test]
async fn a_request_names_exactly_one_valid_host() {
    let fixture = Fixture::new();
    let port = fixture.gateway.address().port();
    let cases = [
        ("", 400),
        ("Host:\r\n", 400),
        ("Host: \r\n", 400),
        ("Host: a b\r\n", 400),
        ("Host: a@127.0.0.1\r\n", 400),
        ("Host: 127.0.0.1/\r\n", 400),
        ("Host: 127.0.0.1:port\r\n", 400),
        ("Host: 127.0.0.1:99999\r\n", 400),
        ("Host: localhost:\u{e9}\r\n", 400),
        ("Host: 127.0.0.1\r\nHost: 127.0.0.1\r\n", 400),
        ("Host: 127.0.0.1\r\n", 404),
        (&format!("Host: localhost:{port}\r\n"), 404),
        ("Host: [::1]:80\r\n", 404),
    ];
    for (host, expected) in cases {
        let (status, _) = fixture.raw(&format!("GET /x HTTP/1.1\r\n{host}\r\n")).await;
        assert_eq!(status, expected, "case: {host:?}");
        let upgrade = upgrade("/live", "").replace("Host: localhost\r\n", host);
        let expected = if expected == 404 { 101 } else { expected };
        assert_eq!(fixture.raw(&upgrade).await.0, expected, "case: handshake with {host:?}");
    }
}

#[tokio::test]
async fn only_hosts_that_are_ours_are_served() {
    let cases = [
        (vec![], "app.example", 403),
        (vec![], "127.0.0.1.evil.example", 403),
        (vec![], "localhost.evil.example", 403),
        (vec![], "gateway.internal:3001", 404),
        (vec!["app.example"], "app.example", 404),
        (vec!["app.example"], "APP.example:8080", 404),
        (vec!["app.example"], "www.app.example", 403),
        (vec!["app.example"], "192.0.2.1", 404),
        (vec!["*"], "evil.example", 404),
    ];
    for (hosts, host, expected) in cases {
        let fixture = Fixture::with(
            |config| {
                config.domain = Some("gateway.internal:3001".to_owned());
                config.hosts = Hosts::new(hosts.iter().map(|host| (*host).to_owned()));
            },
            GatewayLimits::default(),
        );
        let (status, _) = fixture.raw(&format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        assert_eq!(status, expected, "case: {host} with {hosts:?}");
    }
}

#[tokio::test]
async fn a_header_that_decides_occurs_once() {
    let fixture = Fixture::new();
    for line in ["Origin: http://localhost\r\n", "Authorization: Bearer a\r\n"] {
        let headers = line.repeat(2);
        assert_eq!(fixture.raw(&upgrade("/live", &headers)).await.0, 400, "case: {headers:?}");
        let request = format!("GET /x HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        assert_eq!(fixture.raw(&request).await.0, 400, "case: {headers:?}");
    }
    for line in ["Sec-WebSocket-Version: 13\r\n", "Sec-WebSocket-Key: DM+9PqsQtaZrN+IMZbWTzg==\r\n"]
    {
        assert_eq!(fixture.raw(&upgrade("/live", line)).await.0, 400, "case: {line:?}");
    }
    assert_eq!(fixture.fake.events_of("connect").len(), 0, "no function is invoked");
}

#[tokio::test]
async fn a_handshake_that_rfc_6455_does_not_allow_is_rejected() {
    let fixture = Fixture::new();
    let key = "DM+9PqsQtaZrN+IMZbWTzg==";
    let cases = [
        ("HTTP/1.0", upgrade("/live", "").replace("HTTP/1.1", "HTTP/1.0")),
        ("an empty key", upgrade("/live", "").replace(key, "")),
        ("a short key", upgrade("/live", "").replace(key, "DM+9PqsQtaZrN+IMZbWT")),
        ("a long key", upgrade("/live", "").replace(key, "DM+9PqsQtaZrN+IMZbWTzgAA")),
        ("not base64", upgrade("/live", "").replace(key, "DM+9PqsQtaZrN+IMZbWTz!==")),
        ("no padding", upgrade("/live", "").replace(key, "DM+9PqsQtaZrN+IMZbWTzg")),
    ];
    for (name, request) in cases {
        assert_eq!(fixture.raw(&request).await.0, 400, "case: {name}");
    }
    assert_eq!(fixture.raw(&upgrade("/live", "")).await.0, 101);
}

#[tokio::test]
async fn the_management_api_is_for_signed_calls_of_programs() {
    let fixture = Fixture::new();
    let (_client, id) = fixture.connect_with_id().await;
    let call = async |headers: &str| {
        let request =
            format!("GET /live/@connections/{id} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        fixture.raw(&request).await
    };
    assert_eq!(call(SIGNED).await.0, 200);
    let (status, response) = call("").await;
    assert_eq!(status, 403);
    assert!(response.contains("x-amzn-errortype: MissingAuthenticationTokenException\r\n"));
    assert!(response.ends_with(r#"{"message":"Missing Authentication Token"}"#), "{response}");
    assert_eq!(call("Authorization: Bearer a\r\n").await.0, 403);
    for header in [
        "Origin: http://localhost",
        "Forwarded: for=a",
        "X-Forwarded-For: a",
        "X-Real-IP: a",
        "Via: 1.1 a",
    ] {
        assert_eq!(call(&format!("{SIGNED}{header}\r\n")).await.0, 403, "case: {header}");
    }
}

#[tokio::test]
async fn a_call_that_is_not_admitted_is_refused_before_its_body_arrives() {
    let fixture = Fixture::new();
    let call = "POST /live/@connections/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n";
    assert_eq!(fixture.raw(call).await.0, 403);
}

#[tokio::test]
async fn a_refusal_cannot_be_used_by_a_page() {
    let fixture = Fixture::with(
        |config| {
            config.authorizer = Some(Authorizer {
                function: "authorize".to_owned(),
                identity_sources: vec![IdentitySource::Header("auth".to_owned())],
            });
        },
        GatewayLimits { http_body_bytes: 10, ..GatewayLimits::default() },
    );
    let cases = [
        (401, upgrade("/live", "")),
        (403, upgrade("/other", "")),
        (404, "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n".to_owned()),
        (413, "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 11\r\n\r\n".to_owned()),
        (
            431,
            format!("GET /x HTTP/1.1\r\nHost: localhost\r\nLong: {}\r\n\r\n", "x".repeat(11_000)),
        ),
    ];
    for (expected, request) in cases {
        let (status, response) = fixture.raw(&request).await;
        assert_eq!(status, expected);
        for header in [
            "x-content-type-options: nosniff\r\n",
            "x-frame-options: DENY\r\n",
            "content-security-policy: default-src 'none'; frame-ancestors 'none'\r\n",
        ] {
            assert!(response.contains(header), "{status} has no {header}: {response}");
        }
    }
}
