//! The `connections` table: one item per open WebSocket, with its subscriptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    sync::Arc,
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    types::{AttributeValue, ReturnValue},
};
use domain::{access::Principal, topic::Topic};
pub use domain::{
    connection::{Connection, ConnectionId, LIFETIME, Subscription},
    shard::{Shard, Shards, shard_of},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use domain::connection::Recipient;

use crate::{error::StoreError, quota};

/// The index that tells of changes: partition `shard`, sort key `changed_at`.
pub const CHANGES_INDEX: &str = "changes";

/// How long the item of a closed connection stays to tell readers of the index.
const GONE_FOR: Duration = Duration::from_mins(10);

/// What became of a `subscribe`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joined {
    /// The topics that were not subscribed to before.
    pub added: BTreeSet<Topic>,
}

/// Why a connection's item was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// There is no such open connection.
    #[error("connection {0} is not open")]
    NotOpen(ConnectionId),
    /// It would have more topics than it may.
    #[error("connection has {has} topics and may have {limit}")]
    TooManyTopics {
        /// How many it has.
        has: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The `connections` table.
#[derive(Clone, Debug)]
pub struct Connections {
    client: Client,
    table: String,
    /// Counts the writes through this handle and its clones, so that readers in the same process
    /// see them at once.
    writes: Arc<watch::Sender<u64>>,
}

/// The layout of an item. Times are milliseconds since 1970, `expires_at` is seconds for TTL.
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
    #[serde(default, with = "string_set", skip_serializing_if = "BTreeSet::is_empty")]
    topics: BTreeSet<Topic>,
    /// By topic, when a `subscribe` that still sends began.
    #[serde(default)]
    joining: BTreeMap<Topic, i64>,
    /// By topic, where it went live and when.
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

/// `DynamoDB` has no empty sets, so the attribute is absent then.
mod string_set {
    use super::{BTreeSet, Topic};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        topics: &BTreeSet<Topic>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serde_dynamo::string_set::serialize(topics, serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeSet<Topic>, D::Error> {
        serde_dynamo::string_set::deserialize(deserializer)
    }
}

impl Connections {
    /// The table called `table`.
    pub fn new(client: Client, table: String) -> Self {
        Self { client, table, writes: Arc::new(watch::Sender::new(0)) }
    }

    /// Its name in `DynamoDB`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Tells of every write through this handle and its clones.
    pub fn writes(&self) -> watch::Receiver<u64> {
        self.writes.subscribe()
    }

    fn wrote(&self) {
        self.writes.send_modify(|count| *count += 1);
    }

    /// Records a connection that opens.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] when it was closed before this could be written.
    pub async fn open(&self, connection: &Connection) -> Result<(), ConnectionError> {
        let item = Item {
            shard: connection.shard.to_string(),
            connection_id: connection.recipient.id.clone(),
            endpoint: connection.recipient.endpoint.clone(),
            principal: connection.principal.id.clone(),
            class: connection.principal.class.clone(),
            token_expires_at: connection.token_expires_at.map(Timestamp::as_millisecond),
            counted_as: connection.counted_as.clone(),
            topics: BTreeSet::new(),
            joining: BTreeMap::new(),
            cursors: BTreeMap::new(),
            connected_at: connection.connected_at.as_millisecond(),
            changed_at: connection.changed_at.as_millisecond(),
            version: connection.version,
            gone: false,
            expires_at: connection.expires_at().as_second(),
        };
        let item = serde_dynamo::to_item(item)
            .map_err(|error| StoreError::corrupt("connections", error))?;
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(connection_id)")
            .send()
            .await;
        match put {
            Ok(_) => {
                self.wrote();
                Ok(())
            }
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Err(ConnectionError::NotOpen(connection.recipient.id.clone()))
            }
            Err(error) => Err(StoreError::from_sdk("PutItem", error).into()),
        }
    }

    /// Marks a connection closed. Closing twice, or before it opened, is fine.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn close(
        &self,
        shard: Shard,
        id: &ConnectionId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        let closed = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .update_expression(
                "SET gone = :true, changed_at = :now, expires_at = :expires \
                 ADD version :one REMOVE topics, joining, cursors, counted_as",
            )
            .return_values(ReturnValue::AllOld)
            .expression_attribute_values(":true", AttributeValue::Bool(true))
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":expires", number((now + GONE_FOR).as_second()))
            .expression_attribute_values(":one", number(1))
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("UpdateItem", error))?;
        self.wrote();
        let Some(old) = closed.attributes() else { return Ok(()) };
        let counted_as = old.get("counted_as").and_then(|who| who.as_s().ok());
        let opened_at = old.get("connected_at").and_then(|at| at.as_n().ok()?.parse().ok());
        let opened_at = opened_at.and_then(|at| Timestamp::from_millisecond(at).ok());
        match (counted_as, opened_at) {
            (Some(who), Some(at)) => quota::close(&self.client, &self.table, who, id, at).await,
            _ => Ok(()),
        }
    }

    /// Notes that the principal of a connection has shown another token.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] where there is no such connection of that principal.
    pub async fn renew(
        &self,
        shard: Shard,
        id: &ConnectionId,
        principal: &Principal,
        token_expires_at: Timestamp,
        now: Timestamp,
    ) -> Result<(), ConnectionError> {
        let renewed = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .update_expression(
                "SET #class = :class, token_expires_at = :until, changed_at = :now \
                 ADD version :one",
            )
            .condition_expression(
                "principal = :principal AND attribute_exists(joining) AND attribute_not_exists(gone)",
            )
            .expression_attribute_names("#class", "class")
            .expression_attribute_values(":class", AttributeValue::S(principal.class.clone()))
            .expression_attribute_values(":principal", AttributeValue::S(principal.id.clone()))
            .expression_attribute_values(":until", number(token_expires_at.as_millisecond()))
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":one", number(1))
            .send()
            .await;
        self.updated(id, renewed.map(|_| ()))
    }

    /// Returns a connection, or `None` where there is none or it is closed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn get(
        &self,
        shard: Shard,
        id: &ConnectionId,
    ) -> Result<Option<Connection>, StoreError> {
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("GetItem", error))?;
        let connection = got.item.map(read_item).transpose()?;
        Ok(connection.filter(|connection| !connection.gone))
    }

    /// Subscribes a connection to topics, which count as joining until [`Connections::go_live`].
    ///
    /// # Errors
    ///
    /// [`ConnectionError`]; then nothing was changed.
    pub async fn join(
        &self,
        shard: Shard,
        id: &ConnectionId,
        topics: &BTreeSet<Topic>,
        limit: usize,
        now: Timestamp,
    ) -> Result<Joined, ConnectionError> {
        // Most subscribes are far from the limit: one request. Near it, those that it has already
        // must be told apart first.
        match self.try_join(shard, id, topics, limit.checked_sub(topics.len()), now).await? {
            Some(joined) => Ok(joined),
            None => {
                let Some(connection) = self.get(shard, id).await? else {
                    return Err(ConnectionError::NotOpen(id.clone()));
                };
                let has = connection.topics.len();
                let new = topics.iter().filter(|topic| !connection.topics.contains_key(*topic));
                let room = limit.checked_sub(new.count()).filter(|room| has <= *room);
                let joined = match room {
                    Some(_) => self.try_join(shard, id, topics, Some(has), now).await?,
                    None => None,
                };
                joined.ok_or(ConnectionError::TooManyTopics { has, limit })
            }
        }
    }

    /// One conditional update: `None` when the connection has more than `room` topics or is not
    /// open.
    async fn try_join(
        &self,
        shard: Shard,
        id: &ConnectionId,
        topics: &BTreeSet<Topic>,
        room: Option<usize>,
        now: Timestamp,
    ) -> Result<Option<Joined>, StoreError> {
        let Some(room) = room else { return Ok(None) };
        let set = topics.iter().enumerate();
        let set: String = set.map(|(n, _)| format!(", joining.#t{n} = :now")).collect();
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .update_expression(format!(
                "SET changed_at = :now{set} ADD topics :topics, version :one"
            ))
            .condition_expression(
                "attribute_exists(joining) AND attribute_not_exists(gone) \
                 AND (attribute_not_exists(topics) OR size(topics) <= :room)",
            )
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":topics", string_set_value(topics))
            .expression_attribute_values(":one", number(1))
            .expression_attribute_values(":room", number(room))
            .return_values(ReturnValue::AllOld);
        for (n, topic) in topics.iter().enumerate() {
            update = update.expression_attribute_names(format!("#t{n}"), topic.as_str());
        }
        match update.send().await {
            Ok(updated) => {
                self.wrote();
                let before = updated.attributes.map(read_item).transpose()?;
                let had = before.map(|connection| connection.topics).unwrap_or_default();
                let added = topics.iter().filter(|topic| !had.contains_key(*topic)).cloned();
                Ok(Some(Joined { added: added.collect() }))
            }
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Ok(None)
            }
            Err(error) => Err(StoreError::from_sdk("UpdateItem", error)),
        }
    }

    /// Hands joining topics over to `push`, each from the number that the connection has.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] when it closed meanwhile.
    pub async fn go_live(
        &self,
        shard: Shard,
        id: &ConnectionId,
        cursors: &BTreeMap<Topic, u64>,
        now: Timestamp,
    ) -> Result<(), ConnectionError> {
        let parts =
            |part: fn(usize) -> String| -> Vec<String> { (0..cursors.len()).map(part).collect() };
        let set = parts(|n| format!(", cursors.#t{n} = :c{n}")).concat();
        let remove = parts(|n| format!("joining.#t{n}")).join(", ");
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .update_expression(format!(
                "SET changed_at = :now{set} ADD version :one REMOVE {remove}"
            ))
            .condition_expression("attribute_exists(cursors) AND attribute_not_exists(gone)")
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":one", number(1));
        for (n, (topic, seq)) in cursors.iter().enumerate() {
            let cursor =
                [("seq".to_owned(), number(seq)), ("at".to_owned(), number(now.as_millisecond()))];
            update = update
                .expression_attribute_names(format!("#t{n}"), topic.as_str())
                .expression_attribute_values(format!(":c{n}"), AttributeValue::M(cursor.into()));
        }
        self.updated(id, update.send().await.map(|_| ()))
    }

    /// Unsubscribes a connection and returns those topics that it was subscribed to.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] where there is no such connection.
    pub async fn leave(
        &self,
        shard: Shard,
        id: &ConnectionId,
        topics: &BTreeSet<Topic>,
        now: Timestamp,
    ) -> Result<BTreeSet<Topic>, ConnectionError> {
        let remove = (0..topics.len()).map(|n| format!("joining.#t{n}, cursors.#t{n}"));
        let remove = remove.collect::<Vec<_>>().join(", ");
        let mut update = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .update_expression(format!(
                "SET changed_at = :now ADD version :one REMOVE {remove} DELETE topics :topics"
            ))
            .condition_expression("attribute_exists(joining) AND attribute_not_exists(gone)")
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":topics", string_set_value(topics))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllOld);
        for (n, topic) in topics.iter().enumerate() {
            update = update.expression_attribute_names(format!("#t{n}"), topic.as_str());
        }
        let sent = update.send().await;
        let before = sent.as_ref().ok().and_then(|updated| updated.attributes.clone());
        self.updated(id, sent.map(|_| ()))?;
        let had = before.map(read_item).transpose()?.map(|old| old.topics).unwrap_or_default();
        Ok(topics.iter().filter(|topic| had.contains_key(*topic)).cloned().collect())
    }

    fn updated<R>(
        &self,
        id: &ConnectionId,
        sent: Result<(), SdkError<aws_sdk_dynamodb::operation::update_item::UpdateItemError, R>>,
    ) -> Result<(), ConnectionError>
    where
        R: std::fmt::Debug + Send + Sync + 'static,
    {
        match sent {
            Ok(()) => {
                self.wrote();
                Ok(())
            }
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Err(ConnectionError::NotOpen(id.clone()))
            }
            Err(error) => Err(StoreError::from_sdk("UpdateItem", error).into()),
        }
    }

    /// Returns every connection of a shard.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn all(&self, shard: Shard) -> Result<Vec<Connection>, StoreError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("#shard = :shard")
            .expression_attribute_names("#shard", "shard")
            .expression_attribute_values(":shard", AttributeValue::S(shard.to_string()))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let mut connections = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
            connections.push(read_item(item)?);
        }
        Ok(connections)
    }

    /// Returns what changed in a shard at `since` or later, closed connections included.
    ///
    /// The index is eventually consistent: ask again with an overlap.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn changes(
        &self,
        shard: Shard,
        since: Timestamp,
    ) -> Result<Vec<Connection>, StoreError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(CHANGES_INDEX)
            .key_condition_expression("#shard = :shard AND changed_at >= :since")
            .expression_attribute_names("#shard", "shard")
            .expression_attribute_values(":shard", AttributeValue::S(shard.to_string()))
            .expression_attribute_values(":since", number(since.as_millisecond()))
            .into_paginator()
            .items()
            .send();
        let mut connections = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
            connections.push(read_item(item)?);
        }
        Ok(connections)
    }
}

fn read_item(
    item: std::collections::HashMap<String, AttributeValue>,
) -> Result<Connection, StoreError> {
    let item: Item =
        serde_dynamo::from_item(item).map_err(|error| StoreError::corrupt("connections", error))?;
    from_item(item).map_err(|error| StoreError::corrupt("connections", error))
}

fn from_item(item: Item) -> Result<Connection, String> {
    let time = |ms| Timestamp::from_millisecond(ms).map_err(|error| error.to_string());
    let subscription = |topic: &Topic| -> Result<Subscription, String> {
        Ok(match (item.joining.get(topic), item.cursors.get(topic)) {
            (Some(since), _) => Subscription::Joining { since: time(*since)? },
            (None, Some(cursor)) => {
                Subscription::Live { cursor: cursor.seq, since: time(cursor.at)? }
            }
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

fn key(shard: Shard, id: &ConnectionId) -> std::collections::HashMap<String, AttributeValue> {
    [
        ("shard".to_owned(), AttributeValue::S(shard.to_string())),
        ("connection_id".to_owned(), AttributeValue::S(id.to_string())),
    ]
    .into()
}

fn number(value: impl Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn string_set_value(topics: &BTreeSet<Topic>) -> AttributeValue {
    AttributeValue::Ss(topics.iter().map(Topic::to_string).collect())
}
