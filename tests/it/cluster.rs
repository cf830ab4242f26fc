//! A cluster behind a load balancer, and the failure of some of its parts.

use harness::{Client, Cluster, Event, ExchangeServer, until};
use serde_json::json;

const MATCHES: &str = "coinbase/matches/BTC-USD";
const CLIENTS: usize = 9;

#[tokio::test]
async fn a_cluster_survives_the_loss_of_a_gateway_and_of_the_leader() {
    let exchange = ExchangeServer::start().await.unwrap();
    let Some(cluster) = Cluster::start(&exchange).await else { return };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        let mut client = cluster.client().await;
        client.subscribe(&[MATCHES]).await;
        clients.push((client, Vec::<Event>::new()));
    }
    exchange.subscribed("matches", "BTC-USD").await;
    for _ in 0..20 {
        exchange.trade("BTC-USD");
    }
    for (client, events) in &mut clients {
        events.extend(client.events(MATCHES, 20).await);
    }

    // The connections are distributed evenly, so a third of them is lost.
    cluster.kill("gateway-1").await;
    exchange.trade("BTC-USD");
    let mut lost = 0;
    for (client, events) in &mut clients {
        let event = if let Some(event) = client.event_or_end(MATCHES).await {
            event
        } else {
            lost += 1;
            *client = until("another gateway takes the client", async || {
                Client::try_connect(cluster.address, "/live", &[]).await.ok()
            })
            .await;
            let since = json!({"since": {MATCHES: 20}});
            let answer = client.subscribe_with(&[MATCHES], since).await;
            assert_eq!(answer["topics"][0]["recovered"], true);
            client.event(MATCHES).await
        };
        assert_eq!(event.seq, 21);
        events.push(event);
    }
    assert_eq!(lost, CLIENTS / 3);

    // REST reaches a connection on any gateway.
    let (client, _) = &mut clients[0];
    let welcome = client.hello().await;
    let started = cluster.rest().of(&welcome).post("/api/v1/subscribe/BTC-USD").await;
    assert_eq!(started.status, 201, "{started:?}");

    // The next leader fetches the trades that were made without a leader.
    let leader = cluster.leader().await;
    cluster.kill(&leader).await;
    for _ in 0..5 {
        exchange.trade_unstreamed("BTC-USD");
    }
    until("the other poller leads", async || (cluster.leader().await != leader).then_some(()))
        .await;
    exchange.subscribed("matches", "BTC-USD").await;
    exchange.trade("BTC-USD");
    for (client, events) in &mut clients {
        events.extend(client.events(MATCHES, 6).await);
        let numbers: Vec<u64> = events.iter().map(|event| event.seq).collect();
        assert_eq!(numbers, (1..=27).collect::<Vec<_>>());
        let ids: Vec<u64> = events.iter().map(Event::trade_id).collect();
        assert_eq!(ids, (ids[0]..ids[0] + 27).collect::<Vec<_>>());
        assert_eq!(client.gaps, []);
    }

    // The load balancer rejects calls of the management API.
    let answer = cluster.rest().post("/live/%40connections/abc=").await;
    assert_eq!(answer.status, 403);
    cluster.stop().await;
}
