//! Tests of posts through the socket table: delivery, order, fragmentation, and clients that do not read.

use super::*;

#[tokio::test]
async fn posts_reach_their_recipients() {
    let fixture = Fixture::new();
    let (mut first, first_id) = fixture.connect_with_id().await;
    let (mut second, second_id) = fixture.connect_with_id().await;
    let recipients = [&*first_id, "TXzPWdnOjoECGjA=", &second_id, "odd"];
    let sockets = fixture.gateway.sockets();
    let rejected = sockets.post(&recipients, Bytes::from_static(b"hello")).await;
    assert!(matches!(rejected[..], [(1, PostError::Gone), (3, PostError::Gone)]), "{rejected:?}");
    assert_eq!(next_text(&mut first).await, "hello");
    assert_eq!(next_text(&mut second).await, "hello");
}

#[tokio::test]
async fn invalid_messages_are_rejected() {
    let fixture = Fixture::new();
    let (_client, id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    let to = [&*id];
    let rejected = sockets.post(&to, vec![b'x'; 131_073].into()).await;
    assert!(matches!(rejected[..], [(0, PostError::TooLarge)]), "{rejected:?}");
    let rejected = sockets.post(&to, Bytes::from_static(b"\xff")).await;
    assert!(matches!(rejected[..], [(0, PostError::NotText)]), "{rejected:?}");
    assert!(sockets.post(&to, vec![b'x'; 131_072].into()).await.is_empty());
}

#[tokio::test]
async fn posts_arrive_in_order_across_batches() {
    let fixture = Fixture::new();
    let (mut client, id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    // One connection that is listed many times takes the place of many connections.
    let recipients = vec![&*id; 150];
    for n in 0..10 {
        let rejected = sockets.post(&recipients, n.to_string().into()).await;
        assert!(rejected.is_empty(), "{rejected:?}");
    }
    for n in 0..10 {
        for _ in 0..150 {
            assert_eq!(next_text(&mut client).await, n.to_string());
        }
    }
}

#[tokio::test]
async fn a_long_message_is_sent_in_several_frames() {
    let fixture = Fixture::new();
    let mut stream = fixture.raw_socket().await;
    let id = field(&fixture.fake.event("connect", 1).await, "connectionId");
    fixture.wait_until_registered(&id).await;
    fixture.gateway.sockets().post_to(&id, &vec![b'x'; 70_000]).expect("posted");
    for (first, length) in [(0x01, 32_768), (0x00, 32_768), (0x80, 4_464)] {
        assert_eq!(stream.read_u8().await.expect("a header"), first);
        assert_eq!(stream.read_u8().await.expect("a header"), 126);
        assert_eq!(stream.read_u16().await.expect("a header"), length);
        let mut payload = vec![0; usize::from(length)];
        stream.read_exact(&mut payload).await.expect("a payload");
    }
}

#[tokio::test]
async fn posts_to_a_client_that_does_not_read_are_rejected_as_a_whole() {
    let limits = GatewayLimits {
        socket_buffer_bytes: 8_192,
        send_buffer_bytes: 50_000,
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let (mut stuck, stuck_id) = fixture.connect_with_id().await;
    let (mut quick, quick_id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    let recipients = [&*stuck_id, &quick_id];
    let message = |n: usize| format!("{n} {}", "x".repeat(10_000));
    let mut accepted = 0;
    let mut is_busy = false;
    for n in 0..2_000 {
        let rejected = sockets.post(&recipients, message(n).into()).await;
        assert_eq!(next_text(&mut quick).await, message(n), "the other client is not delayed");
        match rejected[..] {
            [] => accepted += 1,
            [(0, PostError::Busy)] => {
                is_busy = true;
                break;
            }
            _ => panic!("{rejected:?}"),
        }
    }
    assert!(is_busy, "the client's buffer never filled");
    for n in 0..accepted {
        assert_eq!(next_text(&mut stuck).await, message(n));
    }
    sockets.post_to(&stuck_id, b"again").expect("there is room again");
    assert_eq!(next_text(&mut stuck).await, "again");
}

#[tokio::test]
async fn a_message_that_the_kernel_accepts_in_parts_arrives_complete() {
    let limits = GatewayLimits { socket_buffer_bytes: 8_192, ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let (mut client, id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    let message = |n: usize| (n..).map(|n| format!("{n} ")).take(21_500).collect::<String>();
    let mut accepted = 0;
    while accepted < 2_000 && sockets.post_to(&id, message(accepted).as_bytes()).is_ok() {
        accepted += 1;
    }
    assert!((1..2_000).contains(&accepted), "the client's buffer never filled");
    for n in 0..accepted {
        assert_eq!(next_text(&mut client).await, message(n));
    }
}

#[tokio::test]
async fn a_stuck_client_can_be_closed() {
    let limits = GatewayLimits {
        socket_buffer_bytes: 8_192,
        grace: Duration::from_millis(50),
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let (_stuck, id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    fill(&sockets, &id);
    sockets.close(&id).expect("closed");
    assert!(matches!(sockets.post_to(&id, b"x"), Err(PostError::Gone)));
    let event = fixture.fake.event("disconnect", 1).await;
    assert_eq!(field(&event, "disconnectStatusCode"), "1000");
}

#[tokio::test]
async fn posts_to_a_lost_client_fail() {
    let fixture = Fixture::new();
    let (client, id) = fixture.connect_with_id().await;
    drop(client);
    let sockets = fixture.gateway.sockets();
    until("the post fails", || matches!(sockets.post_to(&id, b"x"), Err(PostError::Gone))).await;
    fixture.fake.event("disconnect", 1).await;
}

#[tokio::test]
async fn a_flood_of_pings_from_a_client_that_does_not_read_is_bounded() {
    let limits = GatewayLimits {
        socket_buffer_bytes: 8_192,
        send_buffer_bytes: 10_000,
        ..GatewayLimits::default()
    };
    let fixture = Fixture::with_limits(limits);
    let mut stream = fixture.raw_socket().await;
    let ping = [&[0x89, 0xFD, 0, 0, 0, 0][..], &[b'x'; 125]].concat();
    let flood = ping.repeat(1_000);
    for _ in 0..100 {
        time::timeout(PATIENCE, stream.write_all(&flood)).await.expect("read").expect("written");
    }
    stream.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await.expect("written");
    fixture.fake.event("default", 1).await;
}

#[tokio::test]
async fn posts_share_the_rate_of_requests() {
    let limits = GatewayLimits { requests: Some(Rate::of_burst(3)), ..GatewayLimits::default() };
    let fixture = Fixture::with_limits(limits);
    let (_client, id) = fixture.connect_with_id().await;
    let rejected = fixture.gateway.sockets().post(&[&*id; 3], "x".into()).await;
    assert!(matches!(rejected[..], [(2, PostError::Busy)]), "{rejected:?}");
}
