//! The newest numbers, in `pong` and in `subscriptions`.

use domain::topic::Topic;
use serde_json::{Value, json};

use crate::world::{World, topic};

#[tokio::test]
async fn a_pong_has_the_newest_number_of_each_subscribed_topic() {
    let world = World::new().await;
    let client = world.connect("a").await;
    let ping = json!({"action": "ping", "id": "6"});
    let pong = world.send(&client, ping.clone()).await;
    assert_eq!((&pong[0]["id"], &pong[0]["heads"]), (&json!("6"), &json!({})));

    world.append(&topic(), 1, 7).await;
    let quiet = Topic::mastodon_public();
    let unrelated = Topic::mastodon_tag("rust").unwrap();
    world.append(&unrelated, 1, 1).await;
    world.send(&client, json!({"action": "subscribe", "topics": [topic(), quiet]})).await;
    world.append(&topic(), 8, 9).await;
    let expected = json!({topic().as_str(): 9, quiet.as_str(): 0});
    assert_eq!(world.send(&client, ping).await[0]["heads"], expected);
    let list = world.send(&client, json!({"action": "list"})).await;
    assert_eq!(list[0]["heads"], expected);
    assert_eq!(list[0]["topics"], json!([topic(), quiet]));
}

#[tokio::test]
async fn a_pong_reads_many_topics() {
    let world = World::new().await;
    let client = world.connect("a").await;
    let topics: Vec<Topic> =
        (0..40).map(|n| Topic::mastodon_tag(&format!("tag{n}")).unwrap()).collect();
    world.send(&client, json!({"action": "subscribe", "topics": topics})).await;
    world.database.take_requests();
    let pong = world.send(&client, json!({"action": "ping"})).await;
    assert_eq!(pong[0]["heads"].as_object().unwrap().len(), 40);
    // One query per topic, the item of the connection, and the count of messages.
    assert!(world.database.take_requests() <= 43);
}

#[tokio::test(start_paused = true)]
async fn a_pong_without_a_database_has_no_heads() {
    let world = World::new().await;
    let client = world.connect("a").await;
    world.send(&client, json!({"action": "subscribe", "topics": [topic()]})).await;
    world.database.set_away(true);
    // The rules are not known either after some seconds.
    for seconds in [0, 3, 30] {
        tokio::time::advance(std::time::Duration::from_secs(seconds)).await;
        let pong = world.send(&client, json!({"action": "ping"})).await;
        assert_eq!((&pong[0]["type"], &pong[0]["heads"]), (&json!("pong"), &Value::Null));
    }
    let list = world.send(&client, json!({"action": "list"})).await;
    assert_eq!(list[0]["code"], "unavailable");
    world.database.set_away(false);
    tokio::time::advance(std::time::Duration::from_secs(1)).await;
    let pong = world.send(&client, json!({"action": "ping"})).await;
    assert_eq!(pong[0]["heads"], json!({topic().as_str(): 0}));
}
