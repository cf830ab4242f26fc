//! What the writer and the tests both know: the variables, the topics and their events.

use std::time::Duration;

use aws::{
    clients::{Clients, TableOptions},
    tables::Tables,
};
use domain::topic::Topic;
use dynamo::Engine;

/// The variable with the folder in which the process writes.
pub(crate) const ROOT: &str = "HEADWATER_TEST_ROOT";

/// The variable with the durability.
pub(crate) const DURABILITY: &str = "HEADWATER_TEST_DURABILITY";

/// The file in which the process notes what it has appended.
pub(crate) const ACKNOWLEDGED: &str = "acknowledged";

/// The family of all topics.
pub(crate) const FAMILY: &str = "coinbase";

/// How often the process opens the database.
pub(crate) const LIVES: usize = 2;

/// Returns the topics. One append to each is in flight at a time.
pub(crate) fn topics() -> impl Iterator<Item = Topic> {
    (0..16).map(|index| Topic::coinbase("matches", &format!("A{index}-USD")).unwrap())
}

/// Returns the event with a number.
pub(crate) fn event(topic: &Topic, seq: u64) -> String {
    let bytes = topic.as_str().bytes();
    let seed = bytes.fold(seq, |seed, byte| seed.wrapping_mul(31).wrapping_add(byte.into()));
    let mut random = fastrand::Rng::with_seed(seed);
    let size = 1 << random.u8(4..12);
    let text: String = (0..=size / 16).map(|_| format!("{:016x}", random.u64(..))).collect();
    format!(r#"{{"text":"{text}"}}"#)
}

/// Returns the tables of a database.
pub(crate) fn tables(engine: &Engine) -> Tables {
    let options =
        TableOptions { table_prefix: "test-".to_owned(), retention: Duration::from_hours(1) };
    Clients::from_config(engine.sdk_config()).tables(&options)
}
