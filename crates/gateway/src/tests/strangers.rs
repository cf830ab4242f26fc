//! Clients that flood, dawdle, or say that they come from elsewhere.

use super::*;

#[tokio::test]
async fn who_sends_too_fast_is_read_from_slowly() {
    let limits = GatewayLimits {
        in_flight: 2,
        messages: Some(Rate { per_second: 10, burst: 4 }),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let (mut hasty, mut other) = (fixture.connect().await, fixture.connect().await);
    let begun = time::Instant::now();
    for n in 0..10 {
        send(&mut hasty, &n.to_string()).await;
    }
    send(&mut other, "other").await;
    until("the other is heard", || {
        fixture.fake.seen("default").iter().any(|event| event.contains(r#""body":"other""#))
    })
    .await;
    fixture.fake.event("default", 11).await;
    // Four go through at once; of the rest two wait 100 ms at a time, less what comes back.
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn there_is_an_end_to_connections_and_those_that_are_there_go_on() {
    let limits = GatewayLimits { connections: 2, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let mut client = fixture.connect().await;
    let slow = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    let mut refused = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    let mut nothing = Vec::new();
    // Closed at once, or reset.
    let read = time::timeout(PATIENCE, refused.read_to_end(&mut nothing)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    send(&mut client, "still here").await;
    fixture.fake.event("default", 1).await;
    drop(slow);
    let url = fixture.url();
    let deadline = time::Instant::now() + PATIENCE;
    while tokio_tungstenite::connect_async(&url).await.is_err() {
        assert!(time::Instant::now() < deadline, "its place is free again");
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn proxies_on_this_machine_are_believed_where_that_is_wanted() {
    let request = "GET /x HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1, 192.0.2.2\r\n\
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
