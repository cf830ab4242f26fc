//! Simulated upstreams, and the separation of simulated data from live data.

use harness::{Event, Headwater, Program};
use serde_json::json;

#[tokio::test]
async fn simulated_data_is_delivered_and_labeled() {
    let headwater = Headwater::setup().simulated().option("--rate", "200").start().await;
    let mut client = headwater.client().await;
    client.subscribe_with(&["system/sources"], json!({"last": 100})).await;
    let topics = [
        "coinbase/ticker/BTC-USD",
        "coinbase/matches/BTC-USD",
        "coinbase/level2/ETH-USD",
        "mastodon/public",
    ];
    client.subscribe(&topics).await;
    for topic in topics {
        client.events(topic, 5).await;
    }
    let is_simulated = |event: &Event| event.json()["state"] == "simulated";
    let mut sources = Vec::new();
    for _ in 0..2 {
        let states = client.events_until("system/sources", is_simulated).await;
        assert!(states.iter().all(|event| event.json()["state"] != "live"), "{states:?}");
        sources.push(states.last().unwrap().json()["source"].as_str().unwrap().to_owned());
    }
    assert!(sources.iter().any(|source| source == "coinbase"), "{sources:?}");
    let status = headwater.rest().get("/api/v1/status").await.json();
    assert_eq!(status["data"], "simulated");
    let reported = status["sources"].as_array().unwrap();
    assert_eq!(reported.len(), 2, "{status}");
    assert!(reported.iter().all(|it| it["state"] == "simulated"), "{status}");
}

#[tokio::test]
async fn simulated_and_live_data_never_share_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Headwater::setup().folder(folder.path());
    let headwater = setup.clone().simulated().spawn().await;
    let mut client = headwater.client().await;
    client.subscribe(&["coinbase/ticker/BTC-USD"]).await;
    client.events("coinbase/ticker/BTC-USD", 1).await;
    client.close().await;
    headwater.stop().await;

    let rejected = Program::run(&setup.arguments(), &[]).await;
    assert_eq!(rejected.code, Some(1), "{rejected:?}");
    assert_eq!(rejected.stdout, "", "the program did not start");
    let lines: Vec<&str> = rejected.stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {rejected:?}") };
    assert!(line.contains("simulated") && line.contains("live"), "{line}");

    setup.simulated().spawn().await.stop().await;
}
