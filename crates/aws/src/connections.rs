//! The `connections` table: one item for each open WebSocket, with its subscriptions.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    operation::{query::builders::QueryFluentBuilder, update_item::UpdateItemOutput},
    types::AttributeValue,
};
use domain::{
    access::Principal,
    chain::Chain,
    clock::Clock,
    connection::{Connection, ConnectionId, Subscription},
    shard::Shard,
    topic::Topic,
};
use jiff::Timestamp;
use tokio::sync::watch;
use tracing::error;

use self::{
    change::Change,
    item::{key, read, write},
};
pub(crate) use self::{
    counted::{Counted, CountedConnections},
    item::item_key,
};
use crate::{
    error::StoreError,
    item::{if_met, number, text},
};

mod change;
mod counted;
mod item;

/// The index of changes: partition `shard`, sort key `changed_at`.
pub(crate) const CHANGES_INDEX: &str = "changes";

/// How long the item of a closed connection is kept, so that readers of the index see it.
pub const GONE_FOR: Duration = Duration::from_mins(10);

/// The condition of a change that needs an open connection.
const IS_OPEN: &str = "attribute_exists(joining) AND attribute_not_exists(gone)";

/// Why a connection's item was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// There is no such open connection.
    #[error("connection {0} is not open")]
    NotOpen(ConnectionId),
    /// The connection would exceed its limit of topics.
    #[error("connection has {has} topics; the limit is {limit}")]
    TooManyTopics {
        /// The number of topics it has.
        has: usize,
        /// The maximum number of topics.
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
    /// Gives each change its time when the change is sent, because readers follow the times.
    clock: Clock,
    counted: CountedConnections,
    /// Counts the writes through this handle and its clones, so that readers in the same process
    /// see them at once.
    writes: Arc<watch::Sender<u64>>,
}

impl Connections {
    /// The table with this name.
    pub(crate) fn new(client: Client, table: String, clock: Clock) -> Self {
        let counted = CountedConnections::new(client.clone(), table.clone());
        Self { client, table, clock, counted, writes: Arc::new(watch::Sender::new(0)) }
    }

    /// Returns its name in `DynamoDB`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Returns the store of the connections that count as open.
    pub(crate) fn counted(&self) -> &CountedConnections {
        &self.counted
    }

    /// Returns a receiver that is notified of each write through this handle and its clones.
    pub fn writes(&self) -> watch::Receiver<u64> {
        self.writes.subscribe()
    }

    fn wrote(&self) {
        self.writes.send_modify(|count| *count += 1);
    }

    /// Records a connection that opens. It has no subscriptions yet.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] when it was closed before this could be written.
    pub async fn open(&self, connection: &Connection) -> Result<(), ConnectionError> {
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(write(connection)?))
            .condition_expression("attribute_not_exists(connection_id)")
            .send()
            .await;
        if if_met("PutItem", put)?.is_none() {
            return Err(ConnectionError::NotOpen(connection.recipient.id.clone()));
        }
        self.wrote();
        Ok(())
    }

    /// Marks a connection as closed. The connection may already be closed, or may not have been opened yet.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn close(&self, shard: Shard, id: &ConnectionId) -> Result<(), StoreError> {
        let now = self.clock.now();
        let close = self
            .change(shard, id)
            .set("gone = :true")
            .set("expires_at = :expires")
            .remove("topics, joining, cursors, counted_as")
            .value(":true", AttributeValue::Bool(true))
            .value(":expires", number((now + GONE_FOR).as_second()));
        let closed = close
            .returning_old()
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("UpdateItem", error))?;
        self.wrote();
        // The attributes are read one by one, because an item that was closed before lacks some of them.
        let Some(old) = closed.attributes() else { return Ok(()) };
        let counted_as = old.get("counted_as").and_then(|who| who.as_s().ok());
        let opened_at = old.get("connected_at").and_then(|at| at.as_n().ok()?.parse().ok());
        match (counted_as, opened_at) {
            (Some(who), Some(opened_at_ms)) => {
                self.counted.remove(who, &Counted { id: id.clone(), opened_at_ms }).await
            }
            _ => Ok(()),
        }
    }

    /// Deletes the item of a closed connection. It is fine if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn delete_closed(&self, shard: Shard, id: &ConnectionId) -> Result<(), StoreError> {
        let deleted = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(shard, id)))
            .condition_expression("attribute_exists(gone)")
            .send()
            .await;
        if_met("DeleteItem", deleted)?;
        Ok(())
    }

    /// Records another token of the connection's principal.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] when the principal has no such open connection.
    pub async fn renew(
        &self,
        shard: Shard,
        id: &ConnectionId,
        principal: &Principal,
        token_expires_at: Timestamp,
    ) -> Result<(), ConnectionError> {
        let renew = self
            .change(shard, id)
            .set("#class = :class")
            .set("token_expires_at = :until")
            .only_if(&format!("principal = :principal AND {IS_OPEN}"))
            .name("#class", "class")
            .value(":class", text(&principal.class))
            .value(":principal", text(&principal.id))
            .value(":until", number(token_expires_at.as_millisecond()));
        let renewed = if_met("UpdateItem", renew.request().send().await)?;
        self.changed(id, renewed).map(|_| ())
    }

    /// Returns a connection, or `None` if there is none or it is closed.
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
        let connection = got.item.map(read).transpose()?;
        Ok(connection.filter(|connection| !connection.gone))
    }

    /// Subscribes a connection to topics, from the number after the given one, and returns those that
    /// it was not subscribed to before. They count as joining until [`Connections::go_live`].
    ///
    /// # Errors
    ///
    /// [`ConnectionError`]; then nothing was changed.
    pub async fn join(
        &self,
        shard: Shard,
        id: &ConnectionId,
        starts: &BTreeMap<Topic, u64>,
        limit: usize,
    ) -> Result<BTreeSet<Topic>, ConnectionError> {
        // Most connections are far from their limit, so that one request suffices. Near the limit, the
        // topics that the connection already has must not be counted twice.
        let room = limit.checked_sub(starts.len());
        if let Some(added) = self.try_join(shard, id, starts, room).await? {
            return Ok(added);
        }
        let Some(connection) = self.get(shard, id).await? else {
            return Err(ConnectionError::NotOpen(id.clone()));
        };
        let has = connection.topics.len();
        let new = starts.keys().filter(|topic| !connection.topics.contains_key(*topic));
        if has + new.count() > limit {
            return Err(ConnectionError::TooManyTopics { has, limit });
        }
        let added = self.try_join(shard, id, starts, Some(has)).await?;
        added.ok_or(ConnectionError::TooManyTopics { has, limit })
    }

    /// Makes one conditional update. Returns `None` when the connection has more than `room` topics or
    /// is not open.
    async fn try_join(
        &self,
        shard: Shard,
        id: &ConnectionId,
        starts: &BTreeMap<Topic, u64>,
        room: Option<usize>,
    ) -> Result<Option<BTreeSet<Topic>>, StoreError> {
        let Some(room) = room else { return Ok(None) };
        let at = self.clock.now();
        let topics: BTreeSet<Topic> = starts.keys().cloned().collect();
        let join = self
            .change(shard, id)
            .each(starts, |join, n, seq| {
                join.set(format!("joining.#t{n} = :c{n}")).value(format!(":c{n}"), cursor(*seq, at))
            })
            .add("topics :topics")
            .only_if(&format!(
                "{IS_OPEN} AND (attribute_not_exists(topics) OR size(topics) <= :room)"
            ))
            .value(":topics", string_set(&topics))
            .value(":room", number(room));
        let Some(joined) = if_met("UpdateItem", join.returning_old().send().await)? else {
            return Ok(None);
        };
        self.wrote();
        let had = topics_before(joined)?;
        let added = topics.iter().filter(|topic| !had.contains_key(*topic));
        Ok(Some(added.cloned().collect()))
    }

    /// Marks joining topics as live: `push` sends the events after the given numbers.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] when the connection has closed.
    pub async fn go_live(
        &self,
        shard: Shard,
        id: &ConnectionId,
        cursors: &BTreeMap<Topic, u64>,
    ) -> Result<(), ConnectionError> {
        let go_live = self.live_change(shard, id, cursors).only_if(IS_OPEN);
        let live = if_met("UpdateItem", go_live.request().send().await)?;
        self.changed(id, live).map(|_| ())
    }

    /// Notes that the `subscribe` of these topics goes on, except of those that are not joining any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn keep_joining(
        &self,
        shard: Shard,
        id: &ConnectionId,
        topics: &BTreeSet<Topic>,
    ) -> Result<(), StoreError> {
        if self.try_keep_joining(shard, id, topics).await? {
            return Ok(());
        }
        let Some(connection) = self.get(shard, id).await? else { return Ok(()) };
        let is_joining = |topic: &&Topic| {
            matches!(connection.topics.get(*topic), Some(Subscription::Joining { .. }))
        };
        let joining: BTreeSet<Topic> = topics.iter().filter(is_joining).cloned().collect();
        if !joining.is_empty() {
            self.try_keep_joining(shard, id, &joining).await?;
        }
        Ok(())
    }

    async fn try_keep_joining(
        &self,
        shard: Shard,
        id: &ConnectionId,
        topics: &BTreeSet<Topic>,
    ) -> Result<bool, StoreError> {
        let joining = (0..topics.len()).map(|n| format!(" AND attribute_exists(joining.#t{n})"));
        let keep = self
            .change(shard, id)
            .each(by_name(topics), |keep, n, ()| keep.set(format!("joining.#t{n}.#at = :now")))
            .name("#at", "at")
            .only_if(&format!("{IS_OPEN}{}", joining.collect::<String>()));
        Ok(if_met("UpdateItem", keep.request().send().await)?.is_some())
    }

    /// Marks topics as live whose `subscribe` was interrupted. Does nothing if it has noted after `since` that it
    /// goes on.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn finish_joining(
        &self,
        shard: Shard,
        id: &ConnectionId,
        cursors: &BTreeMap<Topic, u64>,
        since: Timestamp,
    ) -> Result<(), StoreError> {
        let unchanged = (0..cursors.len()).map(|n| format!(" AND joining.#t{n}.#at = :since"));
        let finish = self
            .live_change(shard, id, cursors)
            .name("#at", "at")
            .value(":since", number(since.as_millisecond()))
            .only_if(&format!("{IS_OPEN}{}", unchanged.collect::<String>()));
        if if_met("UpdateItem", finish.request().send().await)?.is_some() {
            self.wrote();
        }
        Ok(())
    }

    /// Starts the change that marks topics as live.
    fn live_change(
        &self,
        shard: Shard,
        id: &ConnectionId,
        cursors: &BTreeMap<Topic, u64>,
    ) -> Change {
        let at = self.clock.now();
        self.change(shard, id).each(cursors, |change, n, seq| {
            change
                .set(format!("cursors.#t{n} = :c{n}"))
                .remove(format!("joining.#t{n}"))
                .value(format!(":c{n}"), cursor(*seq, at))
        })
    }

    /// Unsubscribes a connection from topics and returns the subscriptions that it had.
    ///
    /// # Errors
    ///
    /// [`ConnectionError::NotOpen`] when there is no such open connection.
    pub async fn leave(
        &self,
        shard: Shard,
        id: &ConnectionId,
        topics: &BTreeSet<Topic>,
    ) -> Result<BTreeMap<Topic, Subscription>, ConnectionError> {
        let leave = self
            .change(shard, id)
            .each(by_name(topics), |leave, n, ()| {
                leave.remove(format!("joining.#t{n}, cursors.#t{n}"))
            })
            .delete("topics :topics")
            .only_if(IS_OPEN)
            .value(":topics", string_set(topics));
        let updated = if_met("UpdateItem", leave.returning_old().send().await)?;
        let mut had = topics_before(self.changed(id, updated)?)?;
        had.retain(|topic, _| topics.contains(topic));
        Ok(had)
    }

    fn change(&self, shard: Shard, id: &ConnectionId) -> Change {
        let request = self.client.update_item().table_name(&self.table);
        Change::new(request.set_key(Some(key(shard, id))), self.clock.now())
    }

    /// Announces that a change was made, or returns an error if the connection is not open.
    fn changed<T>(&self, id: &ConnectionId, done: Option<T>) -> Result<T, ConnectionError> {
        let done = done.ok_or_else(|| ConnectionError::NotOpen(id.clone()))?;
        self.wrote();
        Ok(done)
    }

    /// Returns what changed in a shard at `since` or later, closed connections included.
    ///
    /// The index is eventually consistent: the next call should overlap with this one. Items that
    /// cannot be decoded are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn changes(
        &self,
        shard: Shard,
        since: Timestamp,
    ) -> Result<Vec<Connection>, StoreError> {
        let query = self
            .query(shard)
            .index_name(CHANGES_INDEX)
            .key_condition_expression("#shard = :shard AND changed_at >= :since")
            .expression_attribute_values(":since", number(since.as_millisecond()));
        read_pages(query).await
    }

    fn query(&self, shard: Shard) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .expression_attribute_names("#shard", "shard")
            .expression_attribute_values(":shard", text(shard.to_string()))
    }
}

async fn read_pages(query: QueryFluentBuilder) -> Result<Vec<Connection>, StoreError> {
    let mut items = query.into_paginator().items().send();
    let mut connections = Vec::new();
    while let Some(item) = items.next().await {
        let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
        match read(item) {
            Ok(connection) => connections.push(connection),
            // The other connections of the shard must not depend on it.
            Err(error) => {
                error!(error = %Chain(&error), "skipped a connection that is not readable");
            }
        }
    }
    Ok(connections)
}

/// Encodes where a subscription starts, and when it was written.
fn cursor(seq: u64, at: Timestamp) -> AttributeValue {
    let at = number(at.as_millisecond());
    AttributeValue::M([("seq".to_owned(), number(seq)), ("at".to_owned(), at)].into())
}

/// Returns the subscriptions that a connection had before an update.
fn topics_before(updated: UpdateItemOutput) -> Result<BTreeMap<Topic, Subscription>, StoreError> {
    let old = updated.attributes.map(read).transpose()?;
    Ok(old.map(|old| old.topics).unwrap_or_default())
}

fn by_name(topics: &BTreeSet<Topic>) -> impl Iterator<Item = (&Topic, ())> {
    topics.iter().map(|topic| (topic, ()))
}

fn string_set(topics: &BTreeSet<Topic>) -> AttributeValue {
    AttributeValue::Ss(topics.iter().map(Topic::to_string).collect())
}
