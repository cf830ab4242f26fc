//! Simulated upstreams, which must never be taken for real ones.

use harness::{Event, Headwater, Program};
use serde_json::json;

#[tokio::test]
async fn simulated_data_flows_and_is_labelled() {
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
async fn simulated_and_live_data_are_never_in_one_folder() {
    let folder = tempfile::tempdir().unwrap();
    let setup = Headwater::setup().folder(folder.path());
    let headwater = setup.clone().simulated().spawn().await;
    let mut client = headwater.client().await;
    client.subscribe(&["coinbase/ticker/BTC-USD"]).await;
    client.events("coinbase/ticker/BTC-USD", 1).await;
    client.close().await;
    headwater.stop().await;

    let refused = Program::run(&setup.arguments(), &[]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(refused.stdout, "", "it never was up");
    let lines: Vec<&str> = refused.stderr.lines().collect();
    let [line] = lines[..] else { panic!("not one line: {refused:?}") };
    assert!(line.contains("simulated") && line.contains("live"), "{line}");

    setup.simulated().spawn().await.stop().await;
}
