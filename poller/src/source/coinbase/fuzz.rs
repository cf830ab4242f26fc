//! Fuzz target: what the exchange sends.

use std::time::Duration;

use bolero::check;
use domain::topic::Topic;
use serde_json::Value;
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::session::Session;
use crate::outgoing::{Outgoing, Role};

#[test]
fn messages() {
    let topics = ["coinbase/ticker/A-B", "coinbase/matches/A-B", "coinbase/level2/A-B"];
    let wanted = topics.map(|topic| Topic::parse(topic).expect("a topic")).into_iter().collect();
    check!().for_each(|input| {
        let mut now = Instant::now();
        let mut session = Session::connected(&wanted, now);
        let mut publish = |_: &Topic, event: Outgoing| {
            if !matches!(event.role, Role::Lost(_)) {
                let json = serde_json::from_slice::<Value>(&event.json);
                assert!(json.is_ok_and(|json| json.is_object()));
            }
        };
        // Each line is a message.
        for text in String::from_utf8_lossy(input).lines() {
            let _ = session.on_message(Utf8Bytes::from(text), now, &mut publish);
            now += Duration::from_millis(300);
            let _ = session.tick(now, &mut publish);
            while session.next_request(now).is_some() {}
            session.take_chores();
        }
    });
}
