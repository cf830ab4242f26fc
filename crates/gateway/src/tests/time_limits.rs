//! Tests of time limits: idle connections, old connections, slow requests, and the shutdown.

use super::*;
use crate::clock;

/// Waits until the wall clock has moved past `at`, milliseconds since 1970.
async fn clock_passes(at: u64) {
    until("the clock moves on", || clock::now() > at).await;
}

// The times in events come from the wall clock, so this test waits for a short limit to pass.
#[tokio::test]
async fn idle_connections_are_closed() {
    let limits = GatewayLimits { idle: Duration::from_millis(100), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let mut client = fixture.connect().await;
    assert_eq!(next_close(&mut client).await, (1001, "Going away".to_owned()));
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1001");
    assert_eq!(field(&event, "disconnectReason"), "Going away");
    let time = |name| field(&event, name).parse::<u64>().expect("a number");
    assert!(time("requestTimeEpoch") - time("connectedAt") >= 100);
}

#[tokio::test]
async fn messages_in_either_direction_keep_a_connection_open() {
    let fixture = Fixture::new();
    let (mut sender, sender_id) = fixture.connect_with_id().await;
    let (mut receiver, receiver_id) = fixture.connect_with_id().await;
    let (mut pinger, pinger_id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    let last_active = |id: &str| sockets.find(id).map(|socket| socket.last_active());
    let connected_at = last_active(&pinger_id).expect("open");
    clock_passes(connected_at).await;
    send(&mut sender, "a message").await;
    fixture.fake.event("default", 1).await;
    sockets.post_to(&receiver_id, b"a post").expect("open");
    // A ping is not a message.
    pinger.send(Message::Ping(Bytes::new())).await.expect("sent");
    assert_eq!(next(&mut pinger).await, Message::Pong(Bytes::new()));

    let idle = u64::try_from(sockets.limits().idle.as_millis()).expect("in range");
    sockets.close_overdue(connected_at + idle - 1);
    assert!(last_active(&pinger_id).is_some(), "not idle for long enough");
    sockets.close_overdue(connected_at + idle);
    assert_eq!(last_active(&pinger_id), None);
    assert_eq!(next_close(&mut pinger).await.0, 1001);
    assert!(last_active(&sender_id) > Some(connected_at));
    assert!(last_active(&receiver_id) > Some(connected_at));
    assert_eq!(next_text(&mut receiver).await, "a post");
}

#[tokio::test]
async fn old_connections_are_closed_even_if_active() {
    let fixture = Fixture::new();
    let (mut client, id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    let socket = sockets.find(&id).expect("open");
    let lifetime = u64::try_from(sockets.limits().lifetime.as_millis()).expect("in range");
    let end = socket.client.connected_at + lifetime;
    socket.touch(end - 1);
    sockets.close_overdue(end - 1);
    assert!(sockets.find(&id).is_some(), "not old enough");
    sockets.close_overdue(end);
    assert_eq!(next_close(&mut client).await, (1001, "Going away".to_owned()));
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1001");
}

// With paused time, the limit passes only when every task is waiting, so the client's bytes are always
// read before.
#[tokio::test(start_paused = true)]
async fn a_connection_with_a_slow_head_is_closed() {
    let fixture = Fixture::with_limits(short_read());
    let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    stream.write_all(b"GET /live HTTP/1.1\r\nHost:").await.expect("written");
    let mut rest = Vec::new();
    let read = time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let _ = read.expect("closed in time");
}

#[tokio::test(start_paused = true)]
async fn a_request_with_a_slow_body_is_rejected() {
    let fixture = Fixture::with_limits(short_read());
    let request = "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\nhalf";
    assert_eq!(fixture.raw(request).await.0, 408);
}

#[tokio::test(start_paused = true)]
async fn a_connection_whose_client_does_not_read_is_closed() {
    const BYTES: usize = 8 * 1_024 * 1_024;
    let limits = GatewayLimits {
        http_write: Duration::from_millis(100),
        http_write_rate: 1_000_000_000,
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with(|config| config.http = HttpRoutes::to("http", None), limits);
    fixture.fake.on("http", |_| response(json!({"statusCode": 200, "body": "x".repeat(BYTES)})));
    let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    stream.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    fixture.fake.event("http", 1).await;
    time::sleep(Duration::from_secs(10)).await;
    let mut received = Vec::new();
    let read = time::timeout(PATIENCE, stream.read_to_end(&mut received)).await;
    let _ = read.expect("closed in time");
    assert!(received.len() < BYTES, "{} bytes", received.len());
}

fn short_read() -> GatewayLimits {
    GatewayLimits { http_read: Duration::from_millis(100), ..GatewayLimits::default() }
}

#[tokio::test]
async fn the_shutdown_closes_the_connections() {
    let fixture = Fixture::new();
    let mut client = fixture.connect().await;
    let address = fixture.gateway.address();
    let mut keep_alive = TcpStream::connect(address).await.expect("a connection");
    keep_alive.write_all(b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("written");
    read_response(&mut keep_alive).await;
    until("the connection is registered", || !fixture.gateway.sockets().is_empty()).await;
    fixture.shutdown.cancel();
    let stopped = tokio::spawn(fixture.gateway.stopped());
    assert_eq!(next_close(&mut client).await, (1001, "Going away".to_owned()));
    assert!(client.next().await.is_none(), "the end");
    // The gateway waits for the client to close its side, for at most the grace period.
    drop(client);
    time::timeout(PATIENCE, stopped).await.expect("stopped in time").expect("no panic");
    assert_eq!(
        fixture.fake.events_of("disconnect").len(),
        1,
        "$disconnect ran before the gateway stopped"
    );
    let mut rest = Vec::new();
    let read = time::timeout(PATIENCE, keep_alive.read_to_end(&mut rest)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "the kept-alive connection is closed: {read:?}");
}

#[tokio::test]
async fn a_function_that_does_not_respond_delays_the_shutdown_by_the_grace_period_only() {
    let limits = GatewayLimits { grace: Duration::from_millis(50), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    fixture.fake.set("disconnect", never_responds());
    let _client = fixture.connect().await;
    until("the connection is registered", || !fixture.gateway.sockets().is_empty()).await;
    fixture.shutdown.cancel();
    time::timeout(PATIENCE, fixture.gateway.stopped()).await.expect("stopped in time");
}
