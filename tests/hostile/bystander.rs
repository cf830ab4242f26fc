//! Clients that do little, and measure how long it takes.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use harness::Client;
use serde_json::json;
use tokio::time;

/// The address of the bystanders. The attackers have another.
const ADDRESS: [u8; 4] = [127, 0, 0, 2];

/// The number of connections that ping, and of those that open others.
const CONNECTIONS: u32 = 4;

/// The time between two pings of a connection, which is well within its rate, and between two handshakes.
const PAUSE: Duration = Duration::from_millis(120);

/// What the bystanders have seen: 95 of 100 waits were not longer.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) ping: Duration,
    pub(crate) handshake: Duration,
}

/// Measures for some time.
pub(crate) async fn watch(server: SocketAddr, time: Duration) -> Seen {
    let until = Instant::now() + time;
    let pinging = (0..CONNECTIONS).map(|n| async move {
        time::sleep(PAUSE * n / CONNECTIONS).await;
        pings(server, until).await
    });
    let connecting = (0..CONNECTIONS).map(|n| async move {
        time::sleep(PAUSE * n / CONNECTIONS).await;
        handshakes(server, until).await
    });
    let (pings, handshakes) = tokio::join!(join_all(pinging), join_all(connecting));
    Seen { ping: p95(pings.concat()), handshake: p95(handshakes.concat()) }
}

async fn connect(server: SocketAddr) -> Client {
    Client::connect_from(ADDRESS.into(), server).await.unwrap()
}

async fn pings(server: SocketAddr, until: Instant) -> Vec<Duration> {
    let mut client = connect(server).await;
    let mut waits = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        assert_eq!(client.ask(json!({"action": "ping"})).await["type"], "pong");
        waits.push(asked.elapsed());
        time::sleep(PAUSE).await;
    }
    waits
}

async fn handshakes(server: SocketAddr, until: Instant) -> Vec<Duration> {
    let mut waits = Vec::new();
    while Instant::now() < until {
        let asked = Instant::now();
        let client = connect(server).await;
        waits.push(asked.elapsed());
        client.close().await;
        time::sleep(PAUSE).await;
    }
    waits
}

fn p95(mut waits: Vec<Duration>) -> Duration {
    assert!(!waits.is_empty(), "nothing was measured");
    waits.sort();
    waits[waits.len() * 95 / 100]
}
