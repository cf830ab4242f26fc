//! The `events` table: the log of all frames, which is the fan-out job, the history and the resume.

use std::{cell::RefCell, collections::HashMap, fmt::Display, io, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    primitives::Blob,
    types::{AttributeValue, ReturnValuesOnConditionCheckFailure},
};
use bytes::Bytes;
pub use domain::entry::{Entry, Newest};
use domain::{frame::Frame, topic::Topic};
use jiff::Timestamp;

use crate::error::StoreError;

/// Fast, and within a few percent of what higher levels reach on frames of JSON.
const ZSTD_LEVEL: i32 = 1;

/// Most bytes that a frame's body can decompress to: an item holds 400 KB, a frame 128 KB.
const MAX_BODY_BYTES: usize = 1024 * 1024;

/// The `events` table.
#[derive(Clone, Debug)]
pub struct Log {
    client: Client,
    table: String,
    retention: Duration,
}

/// Why an entry was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Another poller has written there: this one must not number the topic any more.
    #[error("{topic} already has an event {seq} from somebody else")]
    Taken {
        /// The topic.
        topic: Topic,
        /// The number that was to be the next.
        seq: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Log {
    /// The table called `table`, whose entries expire after `retention`.
    pub fn new(client: Client, table: String, retention: Duration) -> Self {
        Self { client, table, retention }
    }

    /// Its name in `DynamoDB`.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// How long entries stay.
    pub fn retention(&self) -> Duration {
        self.retention
    }

    /// Appends an entry, unless its first number is taken. Repeating it is fine.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; then nothing was written, unless the database gave no answer.
    pub async fn append(
        &self,
        entry: &Entry,
        snapshot: Option<u64>,
        now: Timestamp,
    ) -> Result<(), AppendError> {
        let body = match entry {
            Entry::Frame(frame) => Some(Blob::new(compress(frame.json()))),
            Entry::Lost { .. } => None,
        };
        let topic = entry.topic();
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .item("topic", AttributeValue::S(topic.to_string()))
            .item("seq", number(entry.seq()))
            .item("last", number(entry.last()))
            .item("at", number(now.as_millisecond()))
            .item("expires_at", number((now + self.retention).as_second()))
            .set_item_if("snapshot", snapshot.map(number))
            .set_item_if("body", body.clone().map(AttributeValue::B))
            .condition_expression("attribute_not_exists(seq)")
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld)
            .send()
            .await;
        match put {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error)) => {
                if let aws_sdk_dynamodb::operation::put_item::PutItemError::ConditionalCheckFailedException(taken) =
                    error.err()
                {
                    // A retry after a lost answer finds its own item.
                    let same = taken.item().is_some_and(|item| {
                        item.get("last") == Some(&number(entry.last()))
                            && item.get("body") == body.map(AttributeValue::B).as_ref()
                    });
                    return if same {
                        Ok(())
                    } else {
                        Err(AppendError::Taken { topic: topic.clone(), seq: entry.seq() })
                    };
                }
                Err(StoreError::from_sdk("PutItem", SdkError::ServiceError(error)).into())
            }
            Err(error) => Err(StoreError::from_sdk("PutItem", error).into()),
        }
    }

    /// Returns the newest entry of a topic, expired or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest(&self, topic: &Topic) -> Result<Option<Newest>, StoreError> {
        let found = self.query(topic).scan_index_forward(false).limit(1).send().await;
        let found = found.map_err(|error| StoreError::from_sdk("Query", error))?;
        let Some(item) = found.items.and_then(|items| items.into_iter().next()) else {
            return Ok(None);
        };
        let snapshot = read_number(&item, "snapshot").ok();
        Ok(Some(Newest { entry: read_entry(&item)?, snapshot }))
    }

    /// Returns entries in order, from the one that has `from` to the one that has `to`, up to about
    /// `bytes` of compressed bodies. What is missing or expired is left out.
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
        let before = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("topic = :topic AND seq <= :from")
            .expression_attribute_values(":topic", AttributeValue::S(topic.to_string()))
            .expression_attribute_values(":from", number(from))
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(1)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("Query", error))?;
        // Entries are appended meanwhile, so `from` counts as read only if its entry was found.
        let mut next = from;
        for item in before.items() {
            let entry = read_entry(item)?;
            if entry.last() >= from {
                next = from.saturating_add(1);
                if !is_expired(item, now) {
                    size += body_bytes(item);
                    entries.push(entry);
                }
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
            .expression_attribute_values(":topic", AttributeValue::S(topic.to_string()))
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
            if !is_expired(&item, now) {
                size += body_bytes(&item);
                entries.push(read_entry(&item)?);
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
            .filter_expression("expires_at > :now")
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

    /// Puts another event in the place of event `seq`, and says whether the log had that one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn supersede(
        &self,
        topic: &Topic,
        seq: u64,
        event: &Bytes,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        // Frames are only ever changed here, so a lost race means that the other one is in and
        // this one has to look again.
        loop {
            let entry = self.read(topic, seq, seq, usize::MAX, now).await?.into_iter().next();
            let Some(Entry::Frame(frame)) = entry else { return Ok(false) };
            let old = AttributeValue::B(Blob::new(compress(frame.json())));
            let new = AttributeValue::B(Blob::new(compress(frame.with_event(seq, event).json())));
            let updated = self
                .client
                .update_item()
                .table_name(&self.table)
                .key("topic", AttributeValue::S(topic.to_string()))
                .key("seq", number(frame.seq()))
                .update_expression("SET body = :new")
                .condition_expression("body = :old")
                .expression_attribute_values(":old", old)
                .expression_attribute_values(":new", new)
                .send()
                .await;
            match updated {
                Ok(_) => return Ok(true),
                Err(SdkError::ServiceError(error))
                    if error.err().is_conditional_check_failed_exception() => {}
                Err(error) => return Err(StoreError::from_sdk("UpdateItem", error)),
            }
        }
    }

    fn query(
        &self,
        topic: &Topic,
    ) -> aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder {
        self.client
            .query()
            .table_name(&self.table)
            .key_condition_expression("topic = :topic")
            .expression_attribute_values(":topic", AttributeValue::S(topic.to_string()))
            .consistent_read(true)
    }
}

/// Sets an attribute only where there is a value.
trait SetItemIf {
    fn set_item_if(self, name: &str, value: Option<AttributeValue>) -> Self;
}

impl SetItemIf for aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder {
    fn set_item_if(self, name: &str, value: Option<AttributeValue>) -> Self {
        match value {
            Some(value) => self.item(name, value),
            None => self,
        }
    }
}

type Item = HashMap<String, AttributeValue>;

fn read_entry(item: &Item) -> Result<Entry, StoreError> {
    let Some(AttributeValue::B(body)) = item.get("body") else {
        let topic = item.get("topic").and_then(|topic| Topic::parse(topic.as_s().ok()?).ok());
        let topic = topic.ok_or_else(|| StoreError::corrupt("events", "topic is none"))?;
        let (seq, last) = (read_number(item, "seq")?, read_number(item, "last")?);
        return Ok(Entry::Lost { topic, seq, last });
    };
    let json = decompress(body.as_ref()).map_err(|error| StoreError::corrupt("events", error))?;
    let frame = Frame::from_json(json).map_err(|error| StoreError::corrupt("events", error))?;
    Ok(Entry::Frame(frame))
}

fn read_number(item: &Item, name: &str) -> Result<u64, StoreError> {
    let number = item.get(name).and_then(|value| value.as_n().ok()?.parse().ok());
    number.ok_or_else(|| StoreError::corrupt("events", format!("{name} is not a number")))
}

fn is_expired(item: &Item, now: Timestamp) -> bool {
    read_number(item, "expires_at")
        .is_ok_and(|at| i64::try_from(at).is_ok_and(|at| at <= now.as_second()))
}

fn body_bytes(item: &Item) -> usize {
    item.get("body").and_then(|body| body.as_b().ok()).map_or(0, |body| body.as_ref().len())
}

fn number(value: impl Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

thread_local! {
    // A zstd context is some hundred kilobytes: one a thread, not one a frame.
    static COMPRESSOR: RefCell<zstd::bulk::Compressor<'static>> = RefCell::new(
        zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("zstd has this level"),
    );
    static DECOMPRESSOR: RefCell<zstd::bulk::Decompressor<'static>> = RefCell::new(
        zstd::bulk::Decompressor::new().expect("zstd can decompress"),
    );
}

fn compress(bytes: &[u8]) -> Vec<u8> {
    COMPRESSOR.with_borrow_mut(|zstd| zstd.compress(bytes)).expect("memory to compress a frame")
}

fn decompress(bytes: &[u8]) -> io::Result<Bytes> {
    let size = zstd::bulk::Decompressor::upper_bound(bytes).unwrap_or(MAX_BODY_BYTES);
    DECOMPRESSOR
        .with_borrow_mut(|zstd| zstd.decompress(bytes, size.min(MAX_BODY_BYTES)))
        .map(Bytes::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_body_survives_compression() {
        for size in [0, 1, 100, 100_000] {
            let body = vec![b'x'; size];
            assert_eq!(decompress(&compress(&body)).expect("decompressed"), body);
        }
        assert!(decompress(b"not zstd").is_err());
    }

    #[test]
    fn a_body_that_says_it_is_huge_is_not_believed() {
        let bomb = compress(&vec![0; 64 * 1024 * 1024]);
        assert!(bomb.len() < 100_000 && decompress(&bomb).is_err());
    }

    proptest! {
        #[test]
        fn no_item_makes_the_reader_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            text in "\\PC{0,60}",
            is_compressed: bool,
        ) {
            let body = if is_compressed { compress(text.as_bytes()) } else { bytes };
            let mut item: Item = HashMap::new();
            item.insert("body".to_owned(), AttributeValue::B(Blob::new(body)));
            let _ = read_entry(&item);
            item.insert("body".to_owned(), AttributeValue::S(text.clone()));
            for name in ["topic", "seq", "last", "expires_at"] {
                item.insert(name.to_owned(), AttributeValue::N(text.clone()));
            }
            let _ = (read_entry(&item), is_expired(&item, Timestamp::UNIX_EPOCH));
        }
    }
}
