//! Tests with clients that send too fast, open too many connections, or forge their address.

use super::*;

#[tokio::test]
async fn messages_above_the_rate_limit_are_read_slowly() {
    let limits = GatewayLimits {
        in_flight: 2,
        messages: Some(Rate::new(10, 4)),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let mut fast = fixture.connect().await;
    let mut other = fixture.connect().await;
    let started = time::Instant::now();
    for n in 0..10 {
        send(&mut fast, &n.to_string()).await;
    }
    send(&mut other, "other").await;
    until("the message of the other client arrives", || {
        fixture.fake.events_of("default").iter().any(|event| event.contains(r#""body":"other""#))
    })
    .await;
    fixture.fake.event("default", 11).await;
    // The burst permits four messages. The others wait 100 ms each, two at a time, except for those that
    // the rate permits meanwhile.
    assert!(started.elapsed() >= Duration::from_millis(150), "{:?}", started.elapsed());
}

#[tokio::test]
async fn frames_that_are_not_messages_count_too() {
    let limits = GatewayLimits {
        in_flight: 1,
        messages: Some(Rate::of_burst(4)),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    // A ping, a pong, an empty text that is not complete, and its continuations.
    let frames: [(&str, &[u8], &[u8]); 3] = [
        ("pings", &[], &[0x89, 0x80, 0, 0, 0, 0]),
        ("pongs", &[], &[0x8A, 0x80, 0, 0, 0, 0]),
        ("fragments", &[0x01, 0x80, 0, 0, 0, 0], &[0x00, 0x80, 0, 0, 0, 0]),
    ];
    for (name, first, frame) in frames {
        let mut stream = fixture.raw_socket().await;
        let started = time::Instant::now();
        // A close frame after ten of them.
        let bytes = [first, &frame.repeat(10), &[0x88, 0x80, 0, 0, 0, 0]].concat();
        stream.write_all(&bytes).await.expect("written");
        let mut rest = Vec::new();
        let _ = time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed");
        // Four are within the burst. The gateway waits 100 ms after each of the others.
        assert!(started.elapsed() >= Duration::from_millis(500), "{name}: {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn connections_above_the_limit_are_closed_and_the_others_stay_open() {
    let limits = GatewayLimits { connections: 2, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let mut client = fixture.connect().await;
    let slow = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    let mut refused = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    let mut nothing = Vec::new();
    let read = time::timeout(PATIENCE, refused.read_to_end(&mut nothing)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    send(&mut client, "still here").await;
    fixture.fake.event("default", 1).await;
    drop(slow);
    let url = fixture.url();
    let deadline = time::Instant::now() + PATIENCE;
    while tokio_tungstenite::connect_async(&url).await.is_err() {
        assert!(time::Instant::now() < deadline, "a closed connection no longer counts");
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_address_from_a_local_proxy_is_used_only_if_proxies_are_trusted() {
    let request = "GET /x HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n\
                   X-Forwarded-For: 198.51.100.3\r\n\r\n";
    for (trusts_proxies, expected) in [(true, "198.51.100.3"), (false, "127.0.0.1")] {
        let change = |config: &mut Config| {
            config.http = HttpRoutes::to("rest", None);
            config.trusts_proxies = trusts_proxies;
        };
        let fixture = Fixture::with(change, GatewayLimits::default());
        fixture.raw(request).await;
        let event = fixture.fake.event("rest", 1).await;
        assert!(event.contains(&format!(r#""sourceIp":"{expected}""#)), "{event}");
    }
}
