//! The places of posts in the log, pending edits and deletes, and the statuses that posts stand for.

use std::collections::BTreeSet;

use aws_sdk_dynamodb::types::AttributeValue;
use domain::topic::Topic;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Control, key, value_item};
use crate::{
    error::StoreError,
    item::{Attributes, if_met, number, text},
};

/// The post that a status of a server stands for, and its topics.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The post's ActivityPub URI.
    pub uri: String,
    /// The topics it was published on.
    pub topics: BTreeSet<Topic>,
}

/// A status of a server that stands for a post.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecentStatus {
    /// The server's id of the status.
    pub id: String,
    /// When it is forgotten.
    pub expires_at: Timestamp,
}

impl RecentStatus {
    fn read(item: &Attributes) -> Option<Self> {
        let expires_at = item.get("expires_at")?.as_n().ok()?.parse().ok()?;
        Some(Self {
            id: item.get("sk")?.as_s().ok()?.clone(),
            expires_at: Timestamp::from_second(expires_at).ok()?,
        })
    }
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

impl Control {
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

    /// Returns the newest statuses of a server, newest first: at most `limit`. Their order is that of their ids
    /// as texts.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest_statuses(
        &self,
        server: &str,
        limit: usize,
    ) -> Result<Vec<RecentStatus>, StoreError> {
        let page = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(status_key(server)))
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(i32::try_from(limit).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("Query", error))?;
        let statuses = page.items().iter().map(RecentStatus::read);
        statuses
            .collect::<Option<_>>()
            .ok_or_else(|| StoreError::corrupt("control", "not a status"))
    }

    /// Returns which post a server's status stands for, and its topics.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn status(&self, server: &str, id: &str) -> Result<Option<Remembered>, StoreError> {
        self.get(&status_key(server), id).await
    }
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::de::DeserializeOwned;

    use super::{super::read_value, *};
    use crate::item::Attributes;

    fn round_trip<T: Serialize + DeserializeOwned>(value: &T) -> T {
        read_value(&value_item("pk", "sk", value).expect("an item")).expect("a value")
    }

    proptest! {
        #[test]
        fn values_are_read_as_they_were_written(
            uri in "\\PC{1,40}",
            deletes: bool,
            tags in prop::collection::btree_set("[a-z]{1,20}", 0..5),
        ) {
            let topics = tags.iter().map(|tag| Topic::mastodon_tag(tag).expect("a topic")).collect();
            let remembered = Remembered { uri: uri.clone(), topics };
            prop_assert_eq!(round_trip(&remembered), remembered);
            let topic = Topic::mastodon_public();
            let pending = Pending { topic, uri, deletes, event: "{}".to_owned() };
            prop_assert_eq!(round_trip(&pending), pending);
        }

        #[test]
        fn keys_of_different_nouns_and_names_differ(one in "\\PC{1,40}", other in "\\PC{1,40}") {
            for partition in [post_key, status_key] {
                prop_assert_eq!(partition(&one) == partition(&other), one == other);
                prop_assert!(!["lease", "log", "head", "source", "wanted", "catalogue", "rules", "shards"]
                    .contains(&partition(&one).as_str()));
            }
            prop_assert_ne!(post_key(&one), status_key(&other));
        }

        #[test]
        fn no_item_panics(text in "\\PC{0,40}|[{}\\[\\]\":,a-z0-9]{0,40}") {
            let item = Attributes::from([("value".to_owned(), AttributeValue::S(text))]);
            let _ = read_value::<Remembered>(&item);
        }
    }
}
