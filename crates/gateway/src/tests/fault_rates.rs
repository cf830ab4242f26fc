//! Tests of injected faults.

use tokio::time::Instant;

use super::*;

#[tokio::test]
async fn disconnect_can_be_lost() {
    let fixture =
        Fixture::with_faults(FaultRates { lost_disconnect: 1.0, ..FaultRates::default() });
    drop(fixture.connect().await);
    until("the connection ends", || fixture.gateway.sockets().is_empty()).await;
    fixture.shutdown.cancel();
    fixture.gateway.stopped().await;
    assert_eq!(fixture.fake.events_of("disconnect").len(), 0);
}

#[tokio::test]
async fn disconnect_can_be_delayed() {
    let disconnect_delay = Duration::from_millis(100);
    let fixture = Fixture::with_faults(FaultRates { disconnect_delay, ..FaultRates::default() });
    let client = fixture.connect().await;
    let started = Instant::now();
    drop(client);
    fixture.fake.event("disconnect", 1).await;
    assert!(started.elapsed() >= disconnect_delay);
}

#[tokio::test]
async fn messages_can_be_duplicated() {
    let fixture =
        Fixture::with_faults(FaultRates { duplicated_message: 1.0, ..FaultRates::default() });
    let mut client = fixture.connect().await;
    send(&mut client, "hello").await;
    let second = fixture.fake.event("default", 2).await;
    assert_eq!(fixture.fake.event("default", 1).await, second);
}

#[tokio::test]
async fn posts_can_fail() {
    let fixture = Fixture::with_faults(FaultRates { failed_post: 1.0, ..FaultRates::default() });
    let (_client, id) = fixture.connect_with_id().await;
    let rejected = fixture.gateway.sockets().post(&[&id], "x".into()).await;
    assert!(matches!(rejected[..], [(0, PostError::Injected)]), "{rejected:?}");
    let request = format!(
        "POST /live/@connections/{id} HTTP/1.1\r\nHost: localhost\r\nAuthorization: AWS4-HMAC-SHA256 a\r\nContent-Length: 1\r\n\r\nx"
    );
    let (status, response) = fixture.raw(&request).await;
    assert_eq!(status, 500);
    assert!(response.ends_with(r#"{"message":"Internal server error"}"#), "{response}");
}

#[tokio::test]
async fn connections_can_be_half_open() {
    let fixture = Fixture::with_faults(FaultRates { half_open: 1.0, ..FaultRates::default() });
    let (mut client, id) = fixture.connect_with_id().await;
    let sockets = fixture.gateway.sockets();
    assert!(sockets.post(&[&id], "not delivered".into()).await.is_empty());
    sockets.close(&id).expect("closed");
    assert_eq!(next_close(&mut client).await.0, 1000, "no message came before it");
}
