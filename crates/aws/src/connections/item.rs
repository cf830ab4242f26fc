//! The layout of a connection's item.
//!
//! Times are milliseconds since 1970. `expires_at` is in seconds, as `DynamoDB`'s TTL requires.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use domain::{
    access::Principal,
    connection::{Connection, ConnectionId, Recipient, Subscription},
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    error::StoreError,
    item::{Attributes, text},
};

#[derive(Debug, Serialize, Deserialize)]
struct Item {
    shard: String,
    connection_id: ConnectionId,
    #[serde(default)]
    endpoint: Arc<str>,
    #[serde(default)]
    principal: String,
    #[serde(default)]
    class: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    token_expires_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    counted_as: Option<String>,
    // `DynamoDB` has no empty sets, so the attribute is absent when there are no topics.
    #[serde(
        default,
        with = "serde_dynamo::string_set",
        skip_serializing_if = "BTreeSet::is_empty"
    )]
    topics: BTreeSet<Topic>,
    /// By topic, where a `subscribe` that has not finished starts, and when it began or last noted that
    /// it goes on.
    #[serde(default)]
    joining: BTreeMap<Topic, Cursor>,
    /// By topic, where and when it went live.
    #[serde(default)]
    cursors: BTreeMap<Topic, Cursor>,
    #[serde(default)]
    connected_at: i64,
    changed_at: i64,
    #[serde(default)]
    version: u64,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    gone: bool,
    expires_at: i64,
}

#[derive(Debug, Serialize, Deserialize)]
struct Cursor {
    seq: u64,
    at: i64,
}

/// Returns the primary key of a connection's item.
pub(super) fn key(shard: Shard, id: &ConnectionId) -> Attributes {
    item_key(&shard.to_string(), id.as_str())
}

/// Returns the primary key of an item in any partition: a shard, or one that counts what principals use.
pub(crate) fn item_key(partition: &str, id: &str) -> Attributes {
    [("shard".to_owned(), text(partition)), ("connection_id".to_owned(), text(id))].into()
}

/// Encodes a connection as an item.
pub(super) fn write(connection: &Connection) -> Result<Attributes, StoreError> {
    let mut joining = BTreeMap::new();
    let mut cursors = BTreeMap::new();
    for (topic, subscription) in &connection.topics {
        match subscription {
            Subscription::Joining { cursor, since } => {
                joining.insert(topic.clone(), Cursor { seq: *cursor, at: since.as_millisecond() });
            }
            Subscription::Live { cursor, since } => {
                cursors.insert(topic.clone(), Cursor { seq: *cursor, at: since.as_millisecond() });
            }
        }
    }
    let item = Item {
        shard: connection.shard.to_string(),
        connection_id: connection.recipient.id.clone(),
        endpoint: connection.recipient.endpoint.clone(),
        principal: connection.principal.id.clone(),
        class: connection.principal.class.clone(),
        token_expires_at: connection.token_expires_at.map(Timestamp::as_millisecond),
        counted_as: connection.counted_as.clone(),
        topics: connection.topics.keys().cloned().collect(),
        joining,
        cursors,
        connected_at: connection.connected_at.as_millisecond(),
        changed_at: connection.changed_at.as_millisecond(),
        version: connection.version,
        gone: connection.gone,
        expires_at: connection.expires_at().as_second(),
    };
    serde_dynamo::to_item(item).map_err(|error| StoreError::corrupt("connections", error))
}

/// Decodes an item.
pub(super) fn read(item: Attributes) -> Result<Connection, StoreError> {
    let item: Item =
        serde_dynamo::from_item(item).map_err(|error| StoreError::corrupt("connections", error))?;
    connection(item).map_err(|error| StoreError::corrupt("connections", error))
}

fn connection(item: Item) -> Result<Connection, String> {
    let time = |ms| Timestamp::from_millisecond(ms).map_err(|error| error.to_string());
    let subscription = |topic: &Topic| -> Result<Subscription, String> {
        Ok(match (item.joining.get(topic), item.cursors.get(topic)) {
            (Some(from), _) => Subscription::Joining { cursor: from.seq, since: time(from.at)? },
            (None, Some(from)) => Subscription::Live { cursor: from.seq, since: time(from.at)? },
            (None, None) => Subscription::Live { cursor: 0, since: Timestamp::UNIX_EPOCH },
        })
    };
    let topics = item.topics.iter().map(|topic| Ok((topic.clone(), subscription(topic)?)));
    Ok(Connection {
        topics: topics.collect::<Result<_, String>>()?,
        recipient: Recipient { endpoint: item.endpoint, id: item.connection_id },
        shard: item.shard.parse().map_err(|_| format!("shard {:?}", item.shard))?,
        principal: Principal { id: item.principal, class: item.class },
        token_expires_at: item.token_expires_at.map(time).transpose()?,
        counted_as: item.counted_as,
        connected_at: time(item.connected_at)?,
        changed_at: time(item.changed_at)?,
        version: item.version,
        gone: item.gone,
    })
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::AttributeValue;
    use proptest::prelude::*;

    use super::*;

    fn time() -> impl Strategy<Value = Timestamp> {
        (0..4_000_000_000_000_i64).prop_map(|ms| Timestamp::from_millisecond(ms).expect("a time"))
    }

    fn subscription() -> impl Strategy<Value = Subscription> {
        prop_oneof![
            (any::<u64>(), time())
                .prop_map(|(cursor, since)| Subscription::Joining { cursor, since }),
            (any::<u64>(), time()).prop_map(|(cursor, since)| Subscription::Live { cursor, since }),
        ]
    }

    prop_compose! {
        fn connections()(
            (endpoint, id) in ("https?://[a-z.]{1,20}", "\\PC{1,30}"),
            (subject, class) in ("\\PC{0,20}", "[a-z,]{1,20}"),
            (shard, version, gone) in any::<(Shard, u64, bool)>(),
            counted_as in prop::option::of("\\PC{1,20}"),
            topics in prop::collection::btree_map("[a-z]{1,20}", subscription(), 0..5),
            token_expires_at in prop::option::of(time()),
            (connected_at, changed_at) in (time(), time()),
        ) -> Connection {
            let topics = topics.into_iter().map(|(tag, subscription)| {
                (Topic::mastodon_tag(&tag).expect("a topic"), subscription)
            });
            Connection {
                recipient: Recipient { endpoint: endpoint.into(), id: ConnectionId::new(id) },
                shard,
                principal: Principal { id: subject, class },
                token_expires_at,
                counted_as,
                topics: topics.collect(),
                connected_at,
                changed_at,
                version,
                gone,
            }
        }
    }

    proptest! {
        #[test]
        fn an_item_is_read_as_it_was_written(connection in connections()) {
            let item = write(&connection).expect("an item");
            for (name, value) in key(connection.shard, &connection.recipient.id) {
                prop_assert_eq!(item.get(&name), Some(&value));
            }
            prop_assert_eq!(item.contains_key("topics"), !connection.topics.is_empty());
            prop_assert_eq!(read(item).expect("a connection"), connection);
        }

        #[test]
        fn different_partitions_and_ids_have_different_keys(
            one in ("\\PC{1,20}", "\\PC{1,20}"), other in ("\\PC{1,20}", "\\PC{1,20}"),
        ) {
            let keys = [&one, &other].map(|(partition, id)| item_key(partition, id));
            prop_assert_eq!(keys[0] == keys[1], one == other);
        }

        #[test]
        fn no_item_panics(connection in connections(), n in any::<i64>(), text in "\\PC{0,20}") {
            let item = write(&connection).expect("an item");
            for name in item.keys() {
                for value in [AttributeValue::N(n.to_string()), AttributeValue::S(text.clone())] {
                    let mut item = item.clone();
                    item.insert(name.clone(), value);
                    let _ = read(item);
                }
            }
        }
    }
}
