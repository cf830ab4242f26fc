//! What time brings: idle and old connections, slow heads, the end of the gateway.

use super::*;

#[tokio::test]
async fn idle_connections_are_closed() {
    let limits = Limits { idle: Duration::from_millis(100), ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    let mut client = fixture.connect().await;
    assert_eq!(next_close(&mut client).await, (1001, "Going away".to_owned()));
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1001");
    assert_eq!(field(&event, "disconnectReason"), "Going away");
    assert!(idle_millis(&event) >= 100);
}

#[tokio::test]
async fn messages_in_either_direction_keep_a_connection() {
    let limits = Limits { idle: Duration::from_millis(300), ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    let (mut talker, _) = fixture.connect_with_id().await;
    let (mut listener, listener_id) = fixture.connect_with_id().await;
    let (mut pinger, _) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    for _ in 0..20 {
        time::sleep(Duration::from_millis(30)).await;
        send(&mut talker, "still here").await;
        sockets.post_to(&listener_id, b"still there").expect("open");
        // A ping is no message. Once closed there is nobody to take it.
        let _ = pinger.send(Message::Ping(Bytes::new())).await;
    }
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(
        field(&event, "connectionId"),
        field(&fixture.fake.seen("connect")[2], "connectionId")
    );
    assert_eq!(next_text(&mut listener).await, "still there");
}

#[tokio::test]
async fn old_connections_are_closed_however_busy() {
    let limits = Limits {
        lifetime: Duration::from_millis(200),
        grace: Duration::from_millis(50),
        ..Limits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let mut client = fixture.connect().await;
    let talk = async {
        while client.send(Message::text("busy")).await.is_ok() {
            time::sleep(Duration::from_millis(5)).await;
        }
    };
    time::timeout(PATIENCE, talk).await.expect("closed in time");
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1001");
    assert!(idle_millis(&event) >= 200);
}

/// From `connectedAt` to the event.
fn idle_millis(event: &str) -> u64 {
    let number = |name| field(event, name).parse::<u64>().expect("a number");
    number("requestTimeEpoch") - number("connectedAt")
}

#[tokio::test]
async fn a_slow_head_is_cut_off() {
    let limits = Limits { http_read: Duration::from_millis(100), ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    stream.write_all(b"GET /live HTTP/1.1\r\nHost:").await.expect("written");
    let mut rest = Vec::new();
    let read = time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await;
    let _ = read.expect("cut off in time");
}

#[tokio::test]
async fn a_slow_body_is_cut_off() {
    let limits = Limits { http_read: Duration::from_millis(100), ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    let request = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhalf";
    assert_eq!(fixture.raw(request).await.0, 408);
}

#[tokio::test]
async fn a_stopping_gateway_says_goodbye() {
    let fixture = Fixture::new();
    let mut client = fixture.connect().await;
    let address = fixture.gateway.address();
    let mut keep_alive = TcpStream::connect(address).await.expect("a connection");
    keep_alive.write_all(b"GET /x HTTP/1.1\r\nHost: a\r\n\r\n").await.expect("written");
    read_response(&mut keep_alive).await;
    until("the connection is registered", || !fixture.gateway.sockets().is_empty()).await;
    fixture.shutdown.cancel();
    let stopped = tokio::spawn(fixture.gateway.stopped());
    assert_eq!(next_close(&mut client).await, (1001, "Going away".to_owned()));
    assert!(client.next().await.is_none(), "the end");
    time::timeout(PATIENCE, stopped).await.expect("stopped in time").expect("no panic");
    assert_eq!(fixture.fake.seen("disconnect").len(), 1, "before it has stopped");
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens");
}

#[tokio::test]
async fn a_function_that_hangs_delays_the_end_by_the_grace_period_only() {
    let limits = Limits { grace: Duration::from_millis(50), ..Limits::default() };
    let fixture = Fixture::with_limits(limits);
    fixture.fake.on_async("disconnect", |_| std::future::pending().boxed());
    let _client = fixture.connect().await;
    until("the connection is registered", || !fixture.gateway.sockets().is_empty()).await;
    fixture.shutdown.cancel();
    time::timeout(PATIENCE, fixture.gateway.stopped()).await.expect("stopped in time");
}
