//! The `control` table: leases, heads of topics, source states, catalogs, the places of posts in the log,
//! and pending edits and deletes. It also holds the access rules, which [`crate::rules`] reads and writes.

pub mod heads;
pub mod lanes;
pub mod leases;
pub mod posts;

use std::collections::BTreeSet;

use aws_sdk_dynamodb::{Client, types::AttributeValue};
use domain::{log_id::LogId, provenance::Provenance, source::SourceState, topic::Topic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    error::StoreError,
    item::{Attributes, if_met, number, text},
};

/// The `control` table.
#[derive(Clone, Debug)]
pub struct Control {
    client: Client,
    table: String,
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
        let mut values = Vec::new();
        for item in self.items(pk).await? {
            let Some(AttributeValue::S(sk)) = item.get("sk") else { continue };
            values.push((sk.clone(), read_value(&item)?));
        }
        Ok(values)
    }

    /// Returns all items with this partition key.
    async fn items(&self, pk: &str) -> Result<Vec<Attributes>, StoreError> {
        let pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(pk))
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        pages.collect::<Result<_, _>>().await.map_err(|error| StoreError::from_sdk("Query", error))
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
            (id, detail) in ("\\PC{1,20}", "\\PC{0,40}"),
            (online, seq) in any::<(bool, u64)>(),
            topics in topics(),
            since in 0..4_000_000_000_i64,
            state in prop::sample::select(
                vec![State::Live, State::Connecting, State::Down, State::Simulated]
            ),
        ) {
            let product = Product { id: id.clone(), online };
            prop_assert_eq!(round_trip(&product), product);
            let since = Timestamp::from_second(since).expect("a time");
            let state = SourceState { source: id, state, since, detail };
            prop_assert_eq!(round_trip(&state), state);
            prop_assert_eq!(round_trip(&topics), topics);
            prop_assert_eq!(round_trip(&seq), seq);
            for provenance in [Provenance::Live, Provenance::Simulated] {
                prop_assert_eq!(round_trip(&provenance), provenance);
            }
        }

        #[test]
        fn keys_of_different_names_differ(one in "\\PC{1,40}", other in "\\PC{1,40}") {
            prop_assert_eq!(key("source", &one) == key("source", &other), one == other);
        }

        #[test]
        fn no_item_panics(text in "\\PC{0,40}|[{}\\[\\]\":,a-z0-9]{0,40}") {
            let item = Attributes::from([("value".to_owned(), AttributeValue::S(text))]);
            let _ = read_value::<SourceState>(&item);
        }
    }
}
