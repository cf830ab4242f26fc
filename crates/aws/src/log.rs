//! The `events` table: the log of all frames. History, resuming and gaps are served from it.

mod body;

use std::{
    borrow::Cow,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use aws_sdk_dynamodb::{
    Client,
    operation::{
        put_item::{PutItemError, builders::PutItemFluentBuilder},
        query::builders::QueryFluentBuilder,
    },
    primitives::Blob,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use bytes::Bytes;
use domain::{
    entry::{Entry, Newest},
    frame::Frame,
    topic::Topic,
};
use jiff::Timestamp;
use serde::Deserialize;

use self::body::{compress, decompress};
use crate::{
    error::StoreError,
    item::{Attributes, if_met, number, text},
};

/// The `events` table.
#[derive(Clone, Debug)]
pub struct Log {
    client: Client,
    table: String,
    retention: Duration,
}

/// The type of an event that reports the deletion of a post.
const DELETED: &str = "post.deleted";

/// Most attempts to replace an event while its entry is changed by others.
const SUPERSEDE_ATTEMPTS: usize = 16;

/// What the log has of a post.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoggedPost {
    /// The post, or an edit of it.
    Present,
    /// The event that reports its deletion.
    Deleted,
}

/// What an event of a post begins with.
#[derive(Deserialize)]
struct PostId<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Cow<'a, str>,
}

impl<'a> PostId<'a> {
    fn of(event: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(event).ok()
    }
}

/// Why an entry was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The number has another entry.
    #[error("{topic} already has another event {seq}")]
    Taken {
        /// The topic.
        topic: Topic,
        /// The first number of the entry.
        seq: u64,
    },
    /// A later leader has put its fence there, so this one must stop numbering the topic.
    #[error("a later leader has fenced {topic} at {seq}")]
    Fenced {
        /// The topic.
        topic: Topic,
        /// The first number of the entry.
        seq: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The result of putting a fence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fence {
    /// No earlier leader can append at this number, or after it.
    Stands,
    /// The number has an entry. The topic ends later than the caller knows.
    Taken,
    /// A later leader has put its fence there.
    Outranked,
}

impl Log {
    /// The table with this name, whose entries expire after `retention`.
    pub(crate) fn new(client: Client, table: String, retention: Duration) -> Self {
        Self { client, table, retention }
    }

    /// Returns its name in `DynamoDB`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Returns how long entries are retained.
    pub fn retention(&self) -> Duration {
        self.retention
    }

    /// Appends an entry to a topic without a leader, unless its first number is taken.
    ///
    /// # Errors
    ///
    /// As [`Self::append_in`].
    pub async fn append(
        &self,
        entry: &Entry,
        snapshot: Option<u64>,
        now: Timestamp,
    ) -> Result<(), AppendError> {
        self.append_in(None, entry, snapshot, now).await
    }

    /// Appends an entry as the leader with this epoch, unless its first number is taken. A topic without
    /// a leader has no epoch.
    ///
    /// A repeated append of the same entry with the same `now` does nothing, even if the entry was
    /// edited in between. So an append whose response was lost can be repeated.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; then nothing was written, unless the database sent no response.
    pub async fn append_in(
        &self,
        epoch: Option<u64>,
        entry: &Entry,
        snapshot: Option<u64>,
        now: Timestamp,
    ) -> Result<(), AppendError> {
        let body = match entry {
            Entry::Frame(frame) => Some(AttributeValue::B(Blob::new(compress(frame.json())))),
            Entry::Lost { .. } => None,
        };
        let topic = entry.topic();
        let digest = number(digest(entry, now));
        let mut put = self
            .put(topic, entry.seq(), now)
            .item("last", number(entry.last()))
            .item("digest", digest.clone())
            .set_item_if("snapshot", snapshot.map(number))
            .set_item_if("body", body)
            .condition_expression("attribute_not_exists(seq)");
        if let Some(epoch) = epoch {
            // Only fences have the attribute `fence`.
            put = put
                .condition_expression("attribute_not_exists(seq) OR fence <= :epoch")
                .expression_attribute_values(":epoch", number(epoch));
        }
        let Err(error) = put.send().await else { return Ok(()) };
        let there = match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(taken)) => taken.item(),
            _ => return Err(StoreError::from_sdk("PutItem", error).into()),
        };
        let (topic, seq) = (topic.clone(), entry.seq());
        match there {
            // A retry after a lost response finds its own item.
            Some(item) if item.get("digest") == Some(&digest) => Ok(()),
            Some(item) if is_fence(item) => Err(AppendError::Fenced { topic, seq }),
            _ => Err(AppendError::Taken { topic, seq }),
        }
    }

    /// Puts the fence of the leader with this epoch at the end of a topic, which is at `seq`. Leaders
    /// with lower epochs can no longer append there.
    ///
    /// The leader's own append replaces the fence.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn fence(
        &self,
        topic: &Topic,
        seq: u64,
        epoch: u64,
        now: Timestamp,
    ) -> Result<Fence, StoreError> {
        let put = self
            .put(topic, seq, now)
            .item("fence", number(epoch))
            .condition_expression("attribute_not_exists(seq) OR fence < :epoch")
            .expression_attribute_values(":epoch", number(epoch))
            .send()
            .await;
        let Err(error) = put else { return Ok(Fence::Stands) };
        let there = match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(taken)) => taken.item(),
            _ => return Err(StoreError::from_sdk("PutItem", error)),
        };
        match there {
            Some(item) if item.get("fence") == Some(&number(epoch)) => Ok(Fence::Stands),
            Some(item) if is_fence(item) => Ok(Fence::Outranked),
            _ => Ok(Fence::Taken),
        }
    }

    fn put(&self, topic: &Topic, seq: u64, now: Timestamp) -> PutItemFluentBuilder {
        self.client
            .put_item()
            .table_name(&self.table)
            .item("topic", text(topic.as_str()))
            .item("seq", number(seq))
            .item("at", number(now.as_millisecond()))
            .item("expires_at", number((now + self.retention).as_second()))
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
    }

    /// Returns the newest entry of a topic, expired or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest(&self, topic: &Topic) -> Result<Option<Newest>, StoreError> {
        self.newest_item(topic, is_entry).await?.as_ref().map(read_newest).transpose()
    }

    /// Returns the newest frame of a topic, expired or not. Entries that report lost events may follow it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest_frame(&self, topic: &Topic) -> Result<Option<Frame>, StoreError> {
        let newest = self.newest_item(topic, |item| item.contains_key("body")).await?;
        let newest = newest.as_ref().map(read_entry).transpose()?;
        Ok(newest.and_then(|entry| match entry {
            Entry::Frame(frame) => Some(frame),
            Entry::Lost { .. } => None,
        }))
    }

    /// Returns the newest entry of a topic, if it has not expired. Entries after it cannot have been
    /// deleted, because they would expire later.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest_retained(
        &self,
        topic: &Topic,
        now: Timestamp,
    ) -> Result<Option<Newest>, StoreError> {
        let newest = self.newest_item(topic, is_entry).await?;
        let newest = newest.filter(|item| !is_expired(item, now));
        newest.as_ref().map(read_newest).transpose()
    }

    /// Returns entries in order, from the one that contains `from` to the one that contains `to`, up to
    /// about `bytes` of events: an entry is the last one as soon as all have this size in memory. In the
    /// database they are compressed, often to a hundredth. Missing and expired entries are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn read(
        &self,
        topic: &Topic,
        from: u64,
        to: u64,
        bytes: usize,
        now: Timestamp,
    ) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::new();
        let mut size = 0;
        // Entries are appended concurrently, so `from` counts as read only if its entry was found.
        let mut next = from;
        if let Some(item) = self.item_with(topic, from).await? {
            next = from.saturating_add(1);
            if !is_expired(&item, now) {
                let entry = read_entry(&item)?;
                size += entry.bytes();
                entries.push(entry);
            }
        }
        if to < next {
            return Ok(entries);
        }
        let mut pages = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("topic = :topic AND seq BETWEEN :next AND :to")
            .expression_attribute_values(":topic", text(topic.as_str()))
            .expression_attribute_values(":next", number(next))
            .expression_attribute_values(":to", number(to))
            .consistent_read(true)
            .limit(64)
            .into_paginator()
            .items()
            .send();
        while size < bytes
            && let Some(item) = pages.next().await
        {
            let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
            if !is_expired(&item, now) && !is_fence(&item) {
                let entry = read_entry(&item)?;
                size += entry.bytes();
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    /// Returns the number of the oldest entry that has not expired.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn oldest(&self, topic: &Topic, now: Timestamp) -> Result<Option<u64>, StoreError> {
        let mut pages = self
            .query(topic)
            .filter_expression("expires_at > :now AND attribute_not_exists(fence)")
            .expression_attribute_values(":now", number(now.as_second()))
            .projection_expression("seq")
            .limit(256)
            .into_paginator()
            .items()
            .send();
        match pages.next().await {
            None => Ok(None),
            Some(item) => {
                let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
                read_number(&item, "seq").map(Some)
            }
        }
    }

    /// Returns what the log has of the post `uri` at `seq`.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn post(
        &self,
        topic: &Topic,
        seq: u64,
        uri: &str,
    ) -> Result<Option<LoggedPost>, StoreError> {
        let Some(item) = self.item_with(topic, seq).await? else { return Ok(None) };
        let Entry::Frame(frame) = read_entry(&item)? else { return Ok(None) };
        let event = frame.events().into_iter().find(|(number, _)| *number == seq);
        let Some((_, event)) = event else { return Ok(None) };
        let there = PostId::of(&event).filter(|it| it.id == uri);
        Ok(there.map(|it| match &*it.kind {
            DELETED => LoggedPost::Deleted,
            _ => LoggedPost::Present,
        }))
    }

    /// Replaces the post `uri` at `seq` with an edit or a delete of it. Returns whether the log had the
    /// post there. A delete is never replaced.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails, or when the entry changes all the time.
    pub async fn supersede(
        &self,
        topic: &Topic,
        seq: u64,
        uri: &str,
        event: &Bytes,
    ) -> Result<bool, StoreError> {
        // Frames are changed only here. If the condition fails, another change came in between, and this one
        // starts over with the changed frame.
        for _ in 0..SUPERSEDE_ATTEMPTS {
            let Some(item) = self.item_with(topic, seq).await? else { return Ok(false) };
            let Entry::Frame(frame) = read_entry(&item)? else { return Ok(false) };
            let old = frame.events().into_iter().find(|(number, _)| *number == seq);
            let Some((_, old)) = old else { return Ok(false) };
            let Some(there) = PostId::of(&old).filter(|it| it.id == uri) else { return Ok(false) };
            if there.kind == DELETED || old == *event {
                return Ok(true);
            }
            let Some(stored) = item.get("body") else { return Ok(false) };
            let new = AttributeValue::B(Blob::new(compress(frame.with_event(seq, event).json())));
            let updated = self
                .client
                .update_item()
                .table_name(&self.table)
                .key("topic", text(topic.as_str()))
                .key("seq", number(frame.seq()))
                .update_expression("SET body = :new")
                // The stored bytes: another version of the compressor would make other ones.
                .condition_expression("body = :old")
                .expression_attribute_values(":old", stored.clone())
                .expression_attribute_values(":new", new)
                .send()
                .await;
            if if_met("UpdateItem", updated)?.is_some() {
                return Ok(true);
            }
        }
        let source = format!("{topic} {seq} changes all the time").into();
        Err(StoreError::Unavailable { operation: "UpdateItem", source })
    }

    /// Returns the number at which a topic is fenced, and the epoch of the fence; `None` if the leader has
    /// appended since.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn fence_at(&self, topic: &Topic) -> Result<Option<(u64, u64)>, StoreError> {
        let found = self.query(topic).scan_index_forward(false).limit(1).send().await;
        let found = found.map_err(|error| StoreError::from_sdk("Query", error))?;
        let fence = found.items().first().filter(|item| is_fence(item));
        fence.map(|item| Ok((read_number(item, "seq")?, read_number(item, "fence")?))).transpose()
    }

    /// Returns the newest item of a topic that `is_wanted`.
    async fn newest_item(
        &self,
        topic: &Topic,
        is_wanted: impl Fn(&Attributes) -> bool,
    ) -> Result<Option<Attributes>, StoreError> {
        // Behind the newest entry there is at most one fence.
        let mut pages =
            self.query(topic).scan_index_forward(false).limit(2).into_paginator().items().send();
        while let Some(item) = pages.next().await {
            let item = item.map_err(|error| StoreError::from_sdk("Query", error))?;
            if is_wanted(&item) {
                return Ok(Some(item));
            }
        }
        Ok(None)
    }

    /// Returns the item of the entry that contains `seq`, expired or not.
    async fn item_with(&self, topic: &Topic, seq: u64) -> Result<Option<Attributes>, StoreError> {
        let found = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("topic = :topic AND seq <= :seq")
            .expression_attribute_values(":topic", text(topic.as_str()))
            .expression_attribute_values(":seq", number(seq))
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(1)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("Query", error))?;
        let Some(item) = found.items.and_then(|items| items.into_iter().next()) else {
            return Ok(None);
        };
        // No entry reaches beyond a fence.
        let contains = !is_fence(&item) && read_number(&item, "last")? >= seq;
        Ok(contains.then_some(item))
    }

    fn query(&self, topic: &Topic) -> QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .key_condition_expression("topic = :topic")
            .expression_attribute_values(":topic", text(topic.as_str()))
            .consistent_read(true)
    }
}

/// Sets an attribute only if there is a value.
trait SetItemIf {
    fn set_item_if(self, name: &str, value: Option<AttributeValue>) -> Self;
}

impl SetItemIf for PutItemFluentBuilder {
    fn set_item_if(self, name: &str, value: Option<AttributeValue>) -> Self {
        match value {
            Some(value) => self.item(name, value),
            None => self,
        }
    }
}

fn read_newest(item: &Attributes) -> Result<Newest, StoreError> {
    let snapshot = read_number(item, "snapshot").ok();
    Ok(Newest { entry: read_entry(item)?, snapshot })
}

pub(crate) fn read_entry(item: &Attributes) -> Result<Entry, StoreError> {
    let Some(AttributeValue::B(body)) = item.get("body") else {
        let topic = item.get("topic").and_then(|topic| Topic::parse(topic.as_s().ok()?).ok());
        return Ok(Entry::Lost {
            topic: topic.ok_or_else(|| StoreError::corrupt("events", "item has no valid topic"))?,
            seq: read_number(item, "seq")?,
            last: read_number(item, "last")?,
            is_logged: false,
        });
    };
    let json = decompress(body.as_ref()).map_err(|error| StoreError::corrupt("events", error))?;
    let frame = Frame::from_json(json).map_err(|error| StoreError::corrupt("events", error))?;
    Ok(Entry::Frame(frame))
}

fn read_number(item: &Attributes, name: &str) -> Result<u64, StoreError> {
    let number = item.get(name).and_then(|value| value.as_n().ok()?.parse().ok());
    number.ok_or_else(|| StoreError::corrupt("events", format!("{name} is not a number")))
}

fn is_fence(item: &Attributes) -> bool {
    item.contains_key("fence")
}

/// Returns whether an item is an entry, and not a fence.
fn is_entry(item: &Attributes) -> bool {
    !is_fence(item)
}

/// Identifies an entry as it was appended. Edits do not change it.
fn digest(entry: &Entry, at: Timestamp) -> u64 {
    let mut hasher = DefaultHasher::new();
    (entry.seq(), entry.last(), at.as_nanosecond()).hash(&mut hasher);
    if let Entry::Frame(frame) = entry {
        frame.json().hash(&mut hasher);
    }
    hasher.finish()
}

fn is_expired(item: &Attributes, now: Timestamp) -> bool {
    read_number(item, "expires_at")
        .is_ok_and(|at| i64::try_from(at).is_ok_and(|at| at <= now.as_second()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_frame_is_read_as_it_was_written(
            tag in "[a-z]{1,20}", seq in 1..u64::MAX / 2,
            events in prop::collection::vec("\\{\"a\":[1-9][0-9]{0,8}\\}", 1..20),
        ) {
            let topic = Topic::mastodon_tag(&tag).expect("a topic");
            let frame = Frame::new(topic, seq, Timestamp::UNIX_EPOCH, &events);
            let body = AttributeValue::B(Blob::new(compress(frame.json())));
            let item = Attributes::from([("body".to_owned(), body)]);
            prop_assert_eq!(read_entry(&item).expect("an entry"), Entry::Frame(frame));
        }

        #[test]
        fn no_item_panics(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            value in "\\PC{0,60}",
            is_compressed: bool,
        ) {
            let body = if is_compressed { compress(value.as_bytes()) } else { bytes };
            let mut item = Attributes::new();
            item.insert("body".to_owned(), AttributeValue::B(Blob::new(body)));
            let _ = read_entry(&item);
            item.insert("body".to_owned(), text(value.clone()));
            for name in ["topic", "seq", "last", "expires_at"] {
                item.insert(name.to_owned(), AttributeValue::N(value.clone()));
            }
            let _ = (read_entry(&item), is_expired(&item, Timestamp::UNIX_EPOCH));
        }
    }
}
