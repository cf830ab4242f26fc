//! The `control` table: leases, heads of topics, source states, catalogs, the places of posts in the log,
//! and pending edits and deletes. It also holds the access rules, which [`crate::rules`] reads and writes.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{AttributeValue, ReturnValue},
};
use domain::{
    log_id::LogId, provenance::Provenance, push::Behind, shard::Shard, source::SourceState,
    topic::Topic,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest as _, Sha256};

use crate::{
    error::StoreError,
    item::{Attributes, if_met, number, text},
};

/// How long a note of the number of shards is valid. It is written again after a day.
const SHARDS_FOR: Duration = Duration::from_hours(48);

/// The `control` table.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
    table: String,
}

/// The right to read a source, number its topics and append to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The source.
    pub source: String,
    /// The poller that holds it.
    pub owner: String,
    /// Increases by one each time the lease is acquired.
    pub epoch: u64,
}

/// The numbers that a topic's events may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The highest of them.
    pub last: u64,
    /// The epoch of the leader that reserved them; `None` for a topic without a leader.
    pub epoch: Option<u64>,
}

/// How far a leader has served a shard, for the next leader. The default is that it has served nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneNote {
    /// When this was the case.
    pub at: Timestamp,
    /// By topic, up to where the subscribers have been served, except those that are behind.
    pub sent: BTreeMap<Topic, u64>,
    /// The connections that are behind.
    pub behind: Vec<Behind>,
}

/// The post that a status of a server stands for, and its topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The post's ActivityPub URI.
    pub uri: String,
    /// The topics it was published on.
    pub topics: BTreeSet<Topic>,
}

/// An edit or a delete of a post on a topic that the log still needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// The topic.
    pub topic: Topic,
    /// The post's ActivityPub URI.
    pub uri: String,
    /// Whether the post is deleted.
    pub deletes: bool,
    /// The event, which takes the place of the post: a JSON object.
    pub event: String,
}

impl Pending {
    /// Returns its key. A URI can be longer than a sort key, so the key has its hash.
    fn key(&self) -> (String, String) {
        let hash = Sha256::digest(&self.uri);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        (pending_key(self.topic.source()), format!("{}#{hash}", self.topic))
    }
}

/// A product of an exchange, as listed in the catalog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Its id, such as `BTC-USD`.
    pub id: String,
    /// Whether it is being traded.
    pub online: bool,
}

impl Control {
    /// The table with this name.
    pub(crate) fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Returns its name in `DynamoDB`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Acquires the lease of a source for `term`, if it is free, expired or already held by the owner.
    /// Returns `None` if another owner holds it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn acquire(
        &self,
        source: &str,
        owner: &str,
        term: Duration,
        now: Timestamp,
    ) -> Result<Option<Lease>, StoreError> {
        let acquired = self
            .update_lease(source)
            .update_expression("SET lease_owner = :owner, lapses_at = :lapses ADD epoch :one")
            .condition_expression(
                "attribute_not_exists(lease_owner) OR lapses_at <= :now OR lease_owner = :owner",
            )
            .expression_attribute_values(":owner", text(owner))
            .expression_attribute_values(":lapses", number((now + term).as_millisecond()))
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":one", number(1))
            .return_values(ReturnValue::AllNew)
            .send()
            .await;
        let Some(acquired) = if_met("UpdateItem", acquired)? else { return Ok(None) };
        let epoch = acquired
            .attributes()
            .and_then(|item| item.get("epoch")?.as_n().ok()?.parse().ok())
            .ok_or_else(|| StoreError::corrupt("control", "a lease has no epoch"))?;
        Ok(Some(Lease { source: source.to_owned(), owner: owner.to_owned(), epoch }))
    }

    /// Renews a lease for another `term`. Returns `false` if another owner has taken it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn renew(
        &self,
        lease: &Lease,
        term: Duration,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let lapses = number((now + term).as_millisecond());
        self.hold(lease, "SET lapses_at = :lapses", Some(lapses)).await
    }

    /// Releases a lease, so that a standby need not wait until it expires.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn release(&self, lease: &Lease) -> Result<bool, StoreError> {
        self.hold(lease, "REMOVE lease_owner", None).await
    }

    async fn hold(
        &self,
        lease: &Lease,
        update: &str,
        lapses: Option<AttributeValue>,
    ) -> Result<bool, StoreError> {
        let mut request = self
            .update_lease(&lease.source)
            .update_expression(update)
            .condition_expression("lease_owner = :owner AND epoch = :epoch")
            .expression_attribute_values(":owner", text(&lease.owner))
            .expression_attribute_values(":epoch", number(lease.epoch));
        if let Some(lapses) = lapses {
            request = request.expression_attribute_values(":lapses", lapses);
        }
        Ok(if_met("UpdateItem", request.send().await)?.is_some())
    }

    fn update_lease(&self, source: &str) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).set_key(Some(key("lease", source)))
    }

    /// Removes the owners of all leases. This is safe only for an embedded database: its lock proves that the
    /// previous owner has exited.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn clear_leases(&self) -> Result<(), StoreError> {
        for (sk, _) in self.list::<serde::de::IgnoredAny>("lease").await? {
            self.update_lease(&sk)
                .update_expression("REMOVE lease_owner")
                .send()
                .await
                .map_err(|error| StoreError::from_sdk("UpdateItem", error))?;
        }
        Ok(())
    }

    /// Records the provenance of the data, unless one is already recorded. Returns the recorded provenance.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn claim_provenance(&self, ours: Provenance) -> Result<Provenance, StoreError> {
        if let Some(recorded) = self.provenance().await? {
            return Ok(recorded);
        }
        self.put("log", "origin", &ours, None).await?;
        Ok(ours)
    }

    /// Returns the provenance of the data; `None` before anything was written.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn provenance(&self) -> Result<Option<Provenance>, StoreError> {
        self.get("log", "origin").await
    }

    /// Returns whether a lease is still the one in the table, expired or not: nobody has acquired it
    /// since.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn holds(&self, lease: &Lease) -> Result<bool, StoreError> {
        let item = self.item("lease", &lease.source).await?;
        let is_it = |item: &Attributes| {
            item.get("lease_owner") == Some(&text(&lease.owner))
                && item.get("epoch") == Some(&number(lease.epoch))
        };
        Ok(item.as_ref().is_some_and(is_it))
    }

    /// Returns the id of the log, and makes it if there is none. All callers get the same id.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn claim_log_id(&self) -> Result<LogId, StoreError> {
        if let Some(id) = self.log_id().await? {
            return Ok(id);
        }
        let id = LogId::from_random(rand::random());
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(value_item("log", "id", &id)?))
            .condition_expression("attribute_not_exists(pk)")
            .send()
            .await;
        if if_met("PutItem", put)?.is_some() {
            return Ok(id);
        }
        let id = self.log_id().await?;
        id.ok_or_else(|| StoreError::corrupt("control", "the id of the log was deleted"))
    }

    /// Returns the id of the log; `None` before a poller has started for the first time.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn log_id(&self) -> Result<Option<LogId>, StoreError> {
        self.get("log", "id").await
    }

    /// Returns the numbers that the topic's events may have, which are exact while nobody appends. They
    /// are needed when all entries of the topic have expired.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn reservation(&self, topic: &Topic) -> Result<Option<Reservation>, StoreError> {
        let Some(item) = self.item("head", topic.as_str()).await? else { return Ok(None) };
        let epoch = item.get("epoch").and_then(|epoch| epoch.as_n().ok()?.parse().ok());
        Ok(Some(Reservation { last: read_value(&item)?, epoch }))
    }

    /// Reserves the numbers of a topic without a leader up to `seq`. Does nothing if more are reserved.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn reserve(&self, topic: &Topic, seq: u64) -> Result<(), StoreError> {
        let mut item = value_item("head", topic.as_str(), &seq)?;
        item.insert("reserved".to_owned(), number(seq));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk) OR reserved < :reserved")
            .expression_attribute_values(":reserved", number(seq))
            .send()
            .await;
        if_met("PutItem", put)?;
        Ok(())
    }

    /// Sets the highest number that an event of the topic may have, as the leader with this epoch. A
    /// leader gives each write a higher `version` than the one before it. Returns `false` if a later
    /// write was there first. The same write can be repeated.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn reserve_in(
        &self,
        epoch: u64,
        version: u64,
        topic: &Topic,
        seq: u64,
    ) -> Result<bool, StoreError> {
        let mut item = value_item("head", topic.as_str(), &seq)?;
        item.insert("reserved".to_owned(), number(seq));
        item.insert("epoch".to_owned(), number(epoch));
        item.insert("version".to_owned(), number(version));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression(
                "attribute_not_exists(epoch) OR epoch < :epoch \
                 OR (epoch = :epoch AND version <= :version)",
            )
            .expression_attribute_values(":epoch", number(epoch))
            .expression_attribute_values(":version", number(version))
            .send()
            .await;
        Ok(if_met("PutItem", put)?.is_some())
    }

    /// Notes how far the leader of a family has served a shard. Returns `false` if a later leader has
    /// noted something.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_lane(
        &self,
        lease: &Lease,
        shard: Shard,
        note: &LaneNote,
    ) -> Result<bool, StoreError> {
        let mut item = value_item(&lane_key(&lease.source), &shard.to_string(), note)?;
        item.insert("epoch".to_owned(), number(lease.epoch));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(epoch) OR epoch <= :epoch")
            .expression_attribute_values(":epoch", number(lease.epoch))
            .send()
            .await;
        Ok(if_met("PutItem", put)?.is_some())
    }

    /// Notes that connections open in the first `count` shards. The note is valid for two days.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_shards(&self, count: Shard, now: Timestamp) -> Result<(), StoreError> {
        let until = now + SHARDS_FOR;
        self.put("shards", &count.to_string(), &until, Some(until)).await
    }

    /// Returns the largest number of shards that is noted, or 0 if there is none.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn shards(&self, now: Timestamp) -> Result<Shard, StoreError> {
        let notes = self.list::<Timestamp>("shards").await?;
        let valid = notes.into_iter().filter(|(_, until)| *until > now);
        Ok(valid.filter_map(|(count, _)| count.parse().ok()).max().unwrap_or(0))
    }

    /// Returns how far the leaders of a family have served each shard.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn lanes(&self, family: &str) -> Result<BTreeMap<Shard, LaneNote>, StoreError> {
        let notes = self.list(&lane_key(family)).await?;
        let notes = notes.into_iter().map(|(shard, note)| {
            let shard = shard.parse().map_err(|error| StoreError::corrupt("control", error))?;
            Ok((shard, note))
        });
        notes.collect()
    }

    /// Stores the state of a source.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_source(&self, state: &SourceState) -> Result<(), StoreError> {
        self.put("source", &state.source, state, None).await
    }

    /// Returns the states of the sources, ordered by name.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn sources(&self) -> Result<Vec<SourceState>, StoreError> {
        Ok(self.list("source").await?.into_iter().map(|(_, state)| state).collect())
    }

    /// Stores the topics that a source fetches from its upstream.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_wanted(
        &self,
        source: &str,
        topics: &BTreeSet<Topic>,
    ) -> Result<(), StoreError> {
        self.put("wanted", source, topics, None).await
    }

    /// Returns all topics that are fetched from their upstreams.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn wanted(&self) -> Result<BTreeSet<Topic>, StoreError> {
        let lists = self.list::<BTreeSet<Topic>>("wanted").await?;
        Ok(lists.into_iter().flat_map(|(_, topics)| topics).collect())
    }

    /// Stores the products of an exchange.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_products(&self, source: &str, products: &[Product]) -> Result<(), StoreError> {
        self.put("catalogue", source, &products, None).await
    }

    /// Returns the products of an exchange; `None` before they were first fetched.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn products(&self, source: &str) -> Result<Option<Vec<Product>>, StoreError> {
        self.get("catalogue", source).await
    }

    /// Adds a place of a post in a topic: a number that it may have in the log. It is stored before the
    /// event is appended, so the log can have something else there, or nothing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn place(
        &self,
        uri: &str,
        topic: &Topic,
        place: u64,
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(&post_key(uri), topic.as_str())))
            .update_expression("ADD places :place SET expires_at = :expires")
            .expression_attribute_values(":place", AttributeValue::Ns(vec![place.to_string()]))
            .expression_attribute_values(":expires", number(expires_at.as_second()))
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("UpdateItem", error))?;
        Ok(())
    }

    /// Returns the places of a post in a topic, in order; none if the topic never had it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn places(&self, uri: &str, topic: &Topic) -> Result<BTreeSet<u64>, StoreError> {
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(&post_key(uri), topic.as_str())))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("GetItem", error))?;
        let places = got.item.as_ref().and_then(|item| item.get("places")?.as_ns().ok());
        let places = places.into_iter().flatten().map(|place| {
            place.parse().map_err(|_| StoreError::corrupt("control", "a place is not a number"))
        });
        places.collect()
    }

    /// Records a change of a post that the log still needs. A later change of the same post replaces it,
    /// but an edit does not replace a delete.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_pending(
        &self,
        pending: &Pending,
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        let (pk, sk) = pending.key();
        let mut item = value_item(&pk, &sk, pending)?;
        item.insert("expires_at".to_owned(), number(expires_at.as_second()));
        item.insert("deletes".to_owned(), AttributeValue::Bool(pending.deletes));
        let mut put = self.client.put_item().table_name(&self.table).set_item(Some(item));
        if !pending.deletes {
            put = put
                .condition_expression("attribute_not_exists(pk) OR deletes = :no")
                .expression_attribute_values(":no", AttributeValue::Bool(false));
        }
        if_met("PutItem", put.send().await)?;
        Ok(())
    }

    /// Removes a change that the log has, unless a later one has replaced it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn remove_pending(&self, pending: &Pending) -> Result<(), StoreError> {
        let (pk, sk) = pending.key();
        let mut item = value_item(&pk, &sk, pending)?;
        let value = item.remove("value").unwrap_or_else(|| text(""));
        let removed = self
            .client
            .delete_item()
            .table_name(&self.table)
            .set_key(Some(key(&pk, &sk)))
            // `value` is a reserved word.
            .condition_expression("#value = :value")
            .expression_attribute_names("#value", "value")
            .expression_attribute_values(":value", value)
            .send()
            .await;
        if_met("DeleteItem", removed)?;
        Ok(())
    }

    /// Returns the changes of posts that the log still needs, on the topics of a family.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn pending(&self, family: &str) -> Result<Vec<Pending>, StoreError> {
        Ok(self.list(&pending_key(family)).await?.into_iter().map(|(_, it)| it).collect())
    }

    /// Stores which post a server's status stands for, and its topics.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn remember_status(
        &self,
        server: &str,
        id: &str,
        remembered: &Remembered,
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.put(&status_key(server), id, remembered, Some(expires_at)).await
    }

    /// Returns which post a server's status stands for, and its topics.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn status(&self, server: &str, id: &str) -> Result<Option<Remembered>, StoreError> {
        self.get(&status_key(server), id).await
    }

    pub(crate) async fn put<T: Serialize + ?Sized>(
        &self,
        pk: &str,
        sk: &str,
        value: &T,
        expires_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let mut item = value_item(pk, sk, value)?;
        if let Some(at) = expires_at {
            item.insert("expires_at".to_owned(), number(at.as_second()));
        }
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await;
        put.map_err(|error| StoreError::from_sdk("PutItem", error))?;
        Ok(())
    }

    /// Stores a value with a version, if the stored version is `before`. Returns whether it was stored.
    pub(crate) async fn put_version<T: Serialize>(
        &self,
        (pk, sk): (&str, &str),
        value: &T,
        before: u64,
        version: u64,
    ) -> Result<bool, StoreError> {
        let mut item = value_item(pk, sk, value)?;
        item.insert("version".to_owned(), number(version));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk) OR version = :before")
            .expression_attribute_values(":before", number(before))
            .send()
            .await;
        Ok(if_met("PutItem", put)?.is_some())
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        pk: &str,
        sk: &str,
    ) -> Result<Option<T>, StoreError> {
        self.item(pk, sk).await?.as_ref().map(read_value).transpose()
    }

    async fn item(&self, pk: &str, sk: &str) -> Result<Option<Attributes>, StoreError> {
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(pk, sk)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("GetItem", error))?;
        Ok(got.item)
    }

    async fn list<T: DeserializeOwned>(&self, pk: &str) -> Result<Vec<(String, T)>, StoreError> {
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(pk))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let mut values = Vec::new();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
            let Some(AttributeValue::S(sk)) = item.get("sk") else { continue };
            values.push((sk.clone(), read_value(&item)?));
        }
        Ok(values)
    }
}

fn read_value<T: DeserializeOwned>(item: &Attributes) -> Result<T, StoreError> {
    let json = match item.get("value") {
        Some(AttributeValue::S(json)) => json.as_str(),
        _ => "null",
    };
    serde_json::from_str(json).map_err(|error| StoreError::corrupt("control", error))
}

/// Encodes a value as the item with this key.
fn value_item<T: Serialize + ?Sized>(
    pk: &str,
    sk: &str,
    value: &T,
) -> Result<Attributes, StoreError> {
    let json = serde_json::to_string(value).map_err(|e| StoreError::corrupt("control", e))?;
    let mut item = key(pk, sk);
    item.insert("value".to_owned(), text(json));
    Ok(item)
}

/// Returns the partition of what the leaders of a family have sent.
fn lane_key(family: &str) -> String {
    format!("lane/{family}")
}

/// Returns the partition of the places of a post.
fn post_key(uri: &str) -> String {
    format!("post/{uri}")
}

/// Returns the partition of the pending changes of posts on a family's topics.
fn pending_key(family: &str) -> String {
    format!("pending/{family}")
}

/// Returns the partition of a server's statuses.
fn status_key(server: &str) -> String {
    format!("status/{server}")
}

fn key(pk: &str, sk: &str) -> Attributes {
    [("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))].into()
}

#[cfg(test)]
mod tests {
    use domain::source::State;
    use proptest::prelude::*;

    use super::*;

    fn topics() -> impl Strategy<Value = BTreeSet<Topic>> {
        prop::collection::btree_set("[a-z]{1,20}", 0..5).prop_map(|tags| {
            tags.iter().map(|tag| Topic::mastodon_tag(tag).expect("a topic")).collect()
        })
    }

    fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> T {
        read_value(&value_item("pk", "sk", value).expect("an item")).expect("a value")
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(
            (id, uri, detail) in ("\\PC{1,20}", "\\PC{1,40}", "\\PC{0,40}"),
            (online, seq) in any::<(bool, u64)>(),
            deletes: bool,
            topics in topics(),
            since in 0..4_000_000_000_i64,
            state in prop::sample::select(
                vec![State::Live, State::Connecting, State::Down, State::Simulated]
            ),
        ) {
            let product = Product { id: id.clone(), online };
            prop_assert_eq!(round_trip(&product), product);
            let remembered = Remembered { uri: uri.clone(), topics: topics.clone() };
            prop_assert_eq!(round_trip(&remembered), remembered);
            let since = Timestamp::from_second(since).expect("a time");
            let state = SourceState { source: id, state, since, detail };
            prop_assert_eq!(round_trip(&state), state);
            prop_assert_eq!(round_trip(&topics), topics);
            let topic = Topic::mastodon_public();
            let pending = Pending { topic, uri, deletes, event: "{}".to_owned() };
            prop_assert_eq!(round_trip(&pending), pending);
            prop_assert_eq!(round_trip(&seq), seq);
            for provenance in [Provenance::Live, Provenance::Simulated] {
                prop_assert_eq!(round_trip(&provenance), provenance);
            }
        }

        #[test]
        fn keys_of_different_nouns_and_names_differ(one in "\\PC{1,40}", other in "\\PC{1,40}") {
            for partition in [post_key, status_key] {
                prop_assert_eq!(partition(&one) == partition(&other), one == other);
                prop_assert!(!["lease", "log", "head", "source", "wanted", "catalogue", "rules"]
                    .contains(&partition(&one).as_str()));
            }
            prop_assert_ne!(post_key(&one), status_key(&other));
            prop_assert_eq!(key("source", &one) == key("source", &other), one == other);
        }

        #[test]
        fn no_item_panics(text in "\\PC{0,40}|[{}\\[\\]\":,a-z0-9]{0,40}") {
            let item = Attributes::from([("value".to_owned(), AttributeValue::S(text))]);
            let _ = read_value::<SourceState>(&item);
            let _ = read_value::<Remembered>(&item);
        }
    }
}
