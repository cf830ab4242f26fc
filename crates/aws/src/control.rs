//! The `control` table: leases, source states, catalogues, and where posts stand in the log. The
//! access rules, which are in it too, are in [`crate::rules`].

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Display,
    time::Duration,
};

use aws_sdk_dynamodb::{Client, error::SdkError, types::AttributeValue};
use domain::topic::Topic;
pub use domain::{
    provenance::Provenance as Origin,
    source::{SourceState, State},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::error::StoreError;

/// The `control` table.
#[derive(Clone, Debug)]
pub struct Control {
    pub(crate) client: Client,
    pub(crate) table: String,
}

/// The right to read a source, number its topics and append to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// The source.
    pub source: String,
    /// Who has it.
    pub owner: String,
    /// Up by one at each change of owner.
    pub epoch: u64,
}

/// Where a status that a server sent went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The post's ActivityPub URI.
    pub uri: String,
    /// The topics it was published on.
    pub topics: BTreeSet<Topic>,
}

/// A product of an exchange, as far as the catalogue shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Product {
    /// Such as `BTC-USD`.
    pub id: String,
    /// Whether it trades.
    pub online: bool,
}

impl Control {
    /// The table called `table`.
    pub fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Its name in `DynamoDB`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Takes the lease of a source for `term`, if it is free, lapsed or already the owner's.
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
        let updated = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key("lease", source)))
            .update_expression("SET lease_owner = :owner, lapses_at = :lapses ADD epoch :one")
            .condition_expression(
                "attribute_not_exists(lease_owner) OR lapses_at <= :now OR lease_owner = :owner",
            )
            .expression_attribute_values(":owner", text(owner))
            .expression_attribute_values(":lapses", number((now + term).as_millisecond()))
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":one", number(1))
            .return_values(aws_sdk_dynamodb::types::ReturnValue::AllNew)
            .send()
            .await;
        match updated {
            Ok(updated) => {
                let epoch = updated
                    .attributes()
                    .and_then(|item| item.get("epoch")?.as_n().ok()?.parse().ok())
                    .ok_or_else(|| StoreError::corrupt("control", "a lease has no epoch"))?;
                let (source, owner) = (source.to_owned(), owner.to_owned());
                Ok(Some(Lease { source, owner, epoch }))
            }
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Ok(None)
            }
            Err(error) => Err(StoreError::from_sdk("UpdateItem", error)),
        }
    }

    /// Keeps a lease for another `term`; `false` when it is another's by now.
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

    /// Gives a lease back, so that a standby need not wait for it to lapse.
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
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key("lease", &lease.source)))
            .update_expression(update)
            .condition_expression("lease_owner = :owner AND epoch = :epoch")
            .expression_attribute_values(":owner", text(&lease.owner))
            .expression_attribute_values(":epoch", number(lease.epoch));
        if let Some(lapses) = lapses {
            request = request.expression_attribute_values(":lapses", lapses);
        }
        match request.send().await {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Ok(false)
            }
            Err(error) => Err(StoreError::from_sdk("UpdateItem", error)),
        }
    }

    /// Forgets all leases: for an embedded database, whose earlier owner is dead for sure.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn clear_leases(&self) -> Result<(), StoreError> {
        for (sk, _) in self.list::<serde::de::IgnoredAny>("lease").await? {
            self.client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(key("lease", &sk)))
                .update_expression("REMOVE lease_owner")
                .send()
                .await
                .map_err(|error| StoreError::from_sdk("UpdateItem", error))?;
        }
        Ok(())
    }

    /// Says where the data comes from, and returns where the data that is there came from.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn claim_origin(&self, origin: Origin) -> Result<Origin, StoreError> {
        if let Some(there) = self.get::<Origin>("log", "origin").await? {
            return Ok(there);
        }
        self.put("log", "origin", &origin, None).await?;
        Ok(origin)
    }

    /// Returns where the data comes from; `None` before anything was written.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn origin(&self) -> Result<Option<Origin>, StoreError> {
        self.get("log", "origin").await
    }

    /// Returns a number that no event of the topic is above; for a topic whose log has expired.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn reserved(&self, topic: &Topic) -> Result<Option<u64>, StoreError> {
        self.get("reserved", topic.as_str()).await
    }

    /// Says that no event of the topic will be above `seq` until the next such word.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn reserve(&self, topic: &Topic, seq: u64) -> Result<(), StoreError> {
        self.put("reserved", topic.as_str(), &seq, None).await
    }

    /// Stores what a source is doing.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_source(&self, state: &SourceState) -> Result<(), StoreError> {
        self.put("source", &state.source, state, None).await
    }

    /// Returns what the sources are doing, by name.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn sources(&self) -> Result<Vec<SourceState>, StoreError> {
        Ok(self.list("source").await?.into_iter().map(|(_, state)| state).collect())
    }

    /// Stores which topics of a source are fetched from its upstream.
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

    /// Returns all topics that are fetched from an upstream.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn wanted(&self) -> Result<BTreeSet<Topic>, StoreError> {
        let lists = self.list::<BTreeSet<Topic>>("wanted").await?;
        Ok(lists.into_iter().flat_map(|(_, topics)| topics).collect())
    }

    /// Stores what an exchange offers.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_products(&self, source: &str, products: &[Product]) -> Result<(), StoreError> {
        self.put("catalogue", source, &products, None).await
    }

    /// Returns what an exchange offers; `None` before it was ever asked.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn products(&self, source: &str) -> Result<Option<Vec<Product>>, StoreError> {
        self.get("catalogue", source).await
    }

    /// Stores where a post stands in a topic: every number under which the log has it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn place(
        &self,
        uri: &str,
        topic: &Topic,
        places: &[u64],
        expires_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.put(&post_key(uri), topic.as_str(), places, Some(expires_at)).await
    }

    /// Returns where a post stands in a topic; empty where it does not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn places(&self, uri: &str, topic: &Topic) -> Result<Vec<u64>, StoreError> {
        Ok(self.get(&post_key(uri), topic.as_str()).await?.unwrap_or_default())
    }

    /// Whether a post stands in a topic.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn is_placed(&self, uri: &str, topic: &Topic) -> Result<bool, StoreError> {
        Ok(!self.places(uri, topic).await?.is_empty())
    }

    /// Stores which post a server's status id means and where it went.
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
        self.put(&format!("status/{server}"), id, remembered, Some(expires_at)).await
    }

    /// Returns which post a server's status id means and where it went.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn status(&self, server: &str, id: &str) -> Result<Option<Remembered>, StoreError> {
        self.get(&format!("status/{server}"), id).await
    }

    pub(crate) async fn put<T: Serialize + ?Sized>(
        &self,
        pk: &str,
        sk: &str,
        value: &T,
        expires_at: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let json = serde_json::to_string(value).map_err(|e| StoreError::corrupt("control", e))?;
        let mut item = key(pk, sk);
        item.insert("value".to_owned(), AttributeValue::S(json));
        if let Some(at) = expires_at {
            item.insert("expires_at".to_owned(), number(at.as_second()));
        }
        let put = self.client.put_item().table_name(&self.table).set_item(Some(item)).send().await;
        put.map_err(|error| StoreError::from_sdk("PutItem", error))?;
        Ok(())
    }

    pub(crate) async fn get<T: DeserializeOwned>(
        &self,
        pk: &str,
        sk: &str,
    ) -> Result<Option<T>, StoreError> {
        let got = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key(pk, sk)))
            .consistent_read(true)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("GetItem", error))?;
        got.item.as_ref().map(read_value).transpose()
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

fn read_value<T: DeserializeOwned>(
    item: &HashMap<String, AttributeValue>,
) -> Result<T, StoreError> {
    let json = match item.get("value") {
        Some(AttributeValue::S(json)) => json.as_str(),
        _ => "null",
    };
    serde_json::from_str(json).map_err(|error| StoreError::corrupt("control", error))
}

fn post_key(uri: &str) -> String {
    format!("post/{uri}")
}

pub(crate) fn key(pk: &str, sk: &str) -> HashMap<String, AttributeValue> {
    [("pk".to_owned(), text(pk)), ("sk".to_owned(), text(sk))].into()
}

fn text(value: &str) -> AttributeValue {
    AttributeValue::S(value.to_owned())
}

pub(crate) fn number(value: impl Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
