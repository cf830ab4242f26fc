//! Tests with clients that send too fast, open too many connections, or forge their address.

use ipnet::IpNet;

use super::*;

#[tokio::test]
async fn messages_above_the_rate_limit_are_read_slowly() {
    let limits = GatewayLimits { messages: Some(Rate::new(10, 4)), ..GatewayLimits::default() };
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
    // The burst permits four messages, and each of the others takes 100 ms.
    assert!(started.elapsed() >= Duration::from_millis(500), "{:?}", started.elapsed());
}

#[tokio::test]
async fn who_sends_too_much_for_too_long_is_disconnected() {
    let limits = GatewayLimits {
        messages: Some(Rate::new(20, 1)),
        longest_pause: Duration::from_millis(200),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let mut patient = fixture.connect().await;
    let mut fast = fixture.connect().await;
    for n in 0..10 {
        send(&mut fast, &n.to_string()).await;
    }
    assert_eq!(next_close(&mut fast).await, (1008, "Too many messages".to_owned()));
    assert!(received(&fixture).len() < 10);
    // A client that waits for each response may send as much.
    let before = received(&fixture).len();
    for n in 1..=10 {
        send(&mut patient, "patient").await;
        fixture.fake.event("default", before + n).await;
    }
}

#[tokio::test]
async fn frames_that_are_not_messages_count_too() {
    let limits = GatewayLimits { messages: Some(Rate::new(10, 4)), ..GatewayLimits::default() };
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
        // Four are within the burst, and each of the others takes 100 ms.
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
    let local: IpNet = "127.0.0.0/8".parse().expect("a network");
    for (proxies, expected) in [(vec![local], "198.51.100.3"), (vec![], "127.0.0.1")] {
        let change = |config: &mut Config| {
            config.http = HttpRoutes::to("rest", None);
            config.proxies = proxies;
        };
        let fixture = Fixture::with(change, GatewayLimits::default());
        fixture.raw(request).await;
        let event = fixture.fake.event("rest", 1).await;
        assert!(event.contains(&format!(r#""sourceIp":"{expected}""#)), "{event}");
    }
}

/// Starts a gateway that trusts the proxies of this machine, and has an HTTP API.
fn with_proxies(limits: GatewayLimits) -> Fixture {
    let local = "127.0.0.0/8".parse().expect("a network");
    let change = |config: &mut Config| {
        config.http = HttpRoutes::to("rest", None);
        config.proxies = vec![local];
    };
    Fixture::with(change, limits)
}

#[tokio::test]
async fn a_proxy_names_its_client_in_several_forms() {
    let fixture = with_proxies(GatewayLimits::default());
    for (n, (entry, expected)) in [
        ("198.51.100.3", "198.51.100.3"),
        ("198.51.100.3:1234", "198.51.100.3"),
        ("::ffff:198.51.100.3", "198.51.100.3"),
        ("[2001:db8::1]:1234", "2001:db8::1"),
        ("unknown", "127.0.0.1"),
    ]
    .into_iter()
    .enumerate()
    {
        let head = format!("Host: localhost\r\nX-Forwarded-For: {entry}\r\n\r\n");
        fixture.raw(&format!("GET /x HTTP/1.1\r\n{head}")).await;
        let event = fixture.fake.event("rest", n + 1).await;
        assert!(event.contains(&format!(r#""sourceIp":"{expected}""#)), "{entry}: {event}");
    }
}

#[tokio::test]
async fn the_health_check_of_a_proxy_does_not_wait_for_clients() {
    let limits = GatewayLimits {
        address_work: 1,
        address_turn: Duration::from_hours(1),
        address_invocations: 1,
        ..GatewayLimits::default()
    };
    let fixture = with_proxies(limits);
    let _permits = fixture.fake.hold("rest");
    let mut open = Vec::new();
    for (n, (path, more)) in [
        ("/busy", "X-Forwarded-For: 127.0.0.1\r\n"),
        ("/waits", ""),
        ("/healthz", "X-Forwarded-For: 127.0.0.1\r\n"),
        ("/healthz", ""),
        ("/healthz", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let address = fixture.gateway.address();
        let mut stream = TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        open.push(stream);
        match n {
            0 => drop(fixture.fake.event("rest", 1).await),
            3 => drop(fixture.fake.event("rest", 2).await),
            4 => drop(fixture.fake.event("rest", 3).await),
            _ => {}
        }
    }
    let events = fixture.fake.events_of("rest");
    assert_eq!(events.len(), 3, "{events:?}");
    assert!(events[1..].iter().all(|event| event.contains("/healthz")), "{events:?}");
}

/// Two addresses of this machine.
const HERE: [u8; 4] = [127, 0, 0, 1];
const ELSEWHERE: [u8; 4] = [127, 0, 0, 2];

/// Connects from an address of this machine.
async fn stream_from(address: [u8; 4], fixture: &Fixture) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::from((address, 0))).expect("an address of this machine");
    socket.connect(fixture.gateway.address()).await.expect("a connection")
}

/// Opens a WebSocket from an address of this machine.
async fn connect_from(address: [u8; 4], fixture: &Fixture) -> Result<Client, Error> {
    let stream = stream_from(address, fixture).await;
    Ok(client_async(fixture.url(), MaybeTlsStream::Plain(stream)).await?.0)
}

/// Returns the bodies of the messages that functions received.
fn received(fixture: &Fixture) -> Vec<String> {
    let body = |event: &String| {
        let event: Value = serde_json::from_str(event).expect("JSON");
        event["body"].as_str().expect("a body").to_owned()
    };
    fixture.fake.events_of("default").iter().map(body).collect()
}

#[tokio::test]
async fn who_sends_too_many_bytes_is_read_slowly_and_others_are_not() {
    let rate = Some(Rate::of_burst(1_000));
    for (limits, is_shared) in [
        (GatewayLimits { bytes: rate, ..GatewayLimits::default() }, false),
        (GatewayLimits { address_bytes: rate, ..GatewayLimits::default() }, true),
    ] {
        let fixture = Fixture::with_limits(limits);
        let mut large = fixture.connect().await;
        let mut neighbor = fixture.connect().await;
        let mut other = connect_from(ELSEWHERE, &fixture).await.expect("101");
        send(&mut large, "small").await;
        fixture.fake.event("default", 1).await;
        send(&mut large, &"x".repeat(2_000)).await;
        for text in ["from elsewhere", "again", "and again"] {
            send(&mut other, text).await;
            until(text, || received(&fixture).iter().any(|it| it == text)).await;
            if text == "again" {
                send(&mut neighbor, "from here").await;
            }
        }
        if !is_shared {
            until("it has a budget of its own", || received(&fixture).len() == 5).await;
        }
        let received = received(&fixture);
        assert!(received.iter().all(|it| it.len() < 1_000), "{received:?}");
        assert_eq!(received.iter().any(|it| it == "from here"), !is_shared, "{received:?}");
        // A client that is not read can still be closed.
        fixture.shutdown.cancel();
        assert_eq!(next_close(&mut large).await.0, 1001);
    }
}

#[tokio::test]
async fn the_body_of_a_request_counts_too() {
    let limits =
        GatewayLimits { address_bytes: Some(Rate::of_burst(1_000)), ..GatewayLimits::default() };
    let fixture = Fixture::with(|config| config.http = HttpRoutes::to("rest", None), limits);
    let request = |body: &str| {
        let length = body.len();
        format!("PUT /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n{body}")
    };
    assert_eq!(fixture.raw(&request("small")).await.0, 200);
    let large = request(&"x".repeat(2_000));
    let waits = time::timeout(Duration::from_millis(100), fixture.raw(&large)).await;
    assert!(waits.is_err(), "{waits:?}");
    assert_eq!(fixture.fake.events_of("rest").len(), 1);
}

#[tokio::test]
async fn the_requests_of_an_address_have_a_rate() {
    let limits =
        GatewayLimits { address_requests: Some(Rate::of_burst(3)), ..GatewayLimits::default() };
    let fixture = Fixture::with(|config| config.http = HttpRoutes::to("rest", None), limits);
    let request = "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut stream = stream_from(HERE, &fixture).await;
    stream.write_all(request.repeat(5).as_bytes()).await.expect("written");
    fixture.fake.event("rest", 3).await;
    let mut other = stream_from(ELSEWHERE, &fixture).await;
    other.write_all(request.as_bytes()).await.expect("written");
    let last = fixture.fake.event("rest", 4).await;
    assert!(last.contains(r#""sourceIp":"127.0.0.2""#), "{last}");
}

#[tokio::test]
async fn bodies_of_an_address_share_a_room_in_memory() {
    let limits = GatewayLimits { address_body_bytes: 1_500, ..GatewayLimits::default() };
    let fixture = Fixture::with(|config| config.http = HttpRoutes::to("rest", None), limits);
    let held = fixture.fake.hold("rest");
    let send = async |mut stream: TcpStream, name: &str| {
        let head = format!("PUT /{name} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000");
        let request = format!("{head}\r\n\r\n{}", "x".repeat(1_000));
        stream.write_all(request.as_bytes()).await.expect("written");
        stream
    };
    let path = async |n: usize| {
        let event: Value =
            serde_json::from_str(&fixture.fake.event("rest", n).await).expect("JSON");
        event["rawPath"].as_str().expect("a path").to_owned()
    };
    let from = async |address| stream_from(address, &fixture).await;
    let _first = send(from(HERE).await, "first").await;
    assert_eq!(path(1).await, "/first");
    let mut second = send(from(HERE).await, "second").await;
    let _other = send(from(ELSEWHERE).await, "other").await;
    assert_eq!(path(2).await, "/other", "the first body is still in memory");
    held.add_permits(10);
    assert_eq!(path(3).await, "/second");
    assert_eq!(read_response(&mut second).await.0, 200);
}

#[tokio::test]
async fn an_address_takes_only_its_share_of_the_connections() {
    let limits = GatewayLimits { address_connections: 1, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let one = fixture.connect().await;
    let mut refused = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
    let mut nothing = Vec::new();
    let read = time::timeout(PATIENCE, refused.read_to_end(&mut nothing)).await;
    assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    let _other = connect_from(ELSEWHERE, &fixture).await.expect("another address");
    drop(one);
    let deadline = time::Instant::now() + PATIENCE;
    while connect_async(fixture.url()).await.is_err() {
        assert!(time::Instant::now() < deadline, "a closed connection no longer counts");
        time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn behind_a_proxy_a_connection_counts_for_the_address_of_its_client() {
    let limits = GatewayLimits { address_connections: 2, ..GatewayLimits::default() };
    let fixture = with_proxies(limits);
    let connect = async |client: &str| {
        let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
        let head = upgrade("/live", &format!("X-Forwarded-For: {client}\r\n"));
        stream.write_all(head.as_bytes()).await.expect("written");
        let (status, _) = read_response(&mut stream).await;
        (status, stream)
    };
    let mut open = Vec::new();
    for n in 1..=2 {
        let (status, stream) = connect("192.0.2.1").await;
        assert_eq!(status, 101);
        open.push(stream);
        // Until then, the connection counts for the proxy.
        until("the connection is open", || fixture.gateway.sockets().len() == n).await;
    }
    assert_eq!(connect("192.0.2.1").await.0, 429);
    assert_eq!(connect("192.0.2.2").await.0, 101);
}

#[tokio::test]
async fn an_address_does_not_wait_for_the_work_of_another() {
    let turn = Duration::from_millis(20);
    let limits = GatewayLimits { address_work: 1, address_turn: turn, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let (mut busy, id) = fixture.connect_with_id().await;
    let mut other = connect_from(ELSEWHERE, &fixture).await.expect("101");
    // Each message keeps its place for the longest time that it can.
    let _permits = fixture.fake.hold("default");
    for _ in 0..16 {
        send(&mut busy, "busy").await;
    }
    let socket = fixture.gateway.sockets().find(&id).expect("open");
    until("all messages have been read", || socket.is_busy(16)).await;
    send(&mut other, "other").await;
    fixture.fake.event("default", 17).await;
    assert_ne!(received(&fixture).last().map(String::as_str), Some("other"), "it did not wait");
}

#[tokio::test]
async fn an_address_takes_only_its_share_of_the_environments() {
    let limits = GatewayLimits {
        address_invocations: 2,
        address_turn: Duration::from_millis(20),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let (mut busy, id) = fixture.connect_with_id().await;
    let mut other = connect_from(ELSEWHERE, &fixture).await.expect("101");
    let permits = fixture.fake.hold("default");
    for _ in 0..16 {
        send(&mut busy, "busy").await;
    }
    let socket = fixture.gateway.sockets().find(&id).expect("open");
    until("all messages have been read", || socket.is_busy(16)).await;
    fixture.fake.event("default", 2).await;
    send(&mut other, "other").await;
    fixture.fake.event("default", 3).await;
    assert_eq!(received(&fixture), ["busy", "busy", "other"]);
    permits.add_permits(17);
    fixture.fake.event("default", 17).await;
}

#[tokio::test]
async fn slow_handshakes_of_an_address_do_not_take_those_of_the_others() {
    let limits = GatewayLimits {
        handshakes: 2,
        address_handshakes: 1,
        address_turn: Duration::from_millis(20),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let permits = fixture.fake.hold("connect");
    let mut slow = Vec::new();
    for _ in 0..3 {
        let mut stream = TcpStream::connect(fixture.gateway.address()).await.expect("a connection");
        stream.write_all(upgrade("/live", "").as_bytes()).await.expect("written");
        slow.push(stream);
    }
    fixture.fake.event("connect", 1).await;
    let connecting = connect_from(ELSEWHERE, &fixture);
    let released = async {
        // One of the slow ones, and the one from elsewhere.
        fixture.fake.event("connect", 2).await;
        let events = fixture.fake.events_of("connect");
        assert!(events[1].contains(r#""sourceIp":"127.0.0.2""#), "{events:?}");
        permits.add_permits(10);
    };
    let (connected, ()) = tokio::join!(connecting, released);
    connected.expect("101");
}
