//! The `events` table: the log of all frames. History, resuming and gaps are served from it.

use std::{cell::RefCell, io, time::Duration};

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

use crate::{
    error::StoreError,
    item::{Attributes, if_met, number, text},
};

/// The fastest level; on frames of JSON, higher levels are only a few percent smaller.
const ZSTD_LEVEL: i32 = 1;

/// Maximum size of a decompressed body, in bytes. An item is limited to 400 KB, a frame to 128 KB.
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
    /// Another poller has written there, so this one must stop numbering the topic.
    #[error("{topic} already has an event {seq} from another poller")]
    Taken {
        /// The topic.
        topic: Topic,
        /// The first number of the entry.
        seq: u64,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
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

    /// Appends an entry, unless its first number is taken. Does nothing if the same entry is already there.
    ///
    /// # Errors
    ///
    /// [`AppendError`]; then nothing was written, unless the database sent no response.
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
            .item("topic", text(topic.as_str()))
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
        let Err(error) = put else { return Ok(()) };
        let taken = match error.as_service_error() {
            Some(PutItemError::ConditionalCheckFailedException(taken)) => taken.item(),
            _ => return Err(StoreError::from_sdk("PutItem", error).into()),
        };
        // A retry after a lost response finds its own item.
        let is_own = taken.is_some_and(|item| {
            item.get("last") == Some(&number(entry.last()))
                && item.get("body") == body.map(AttributeValue::B).as_ref()
        });
        if is_own {
            Ok(())
        } else {
            Err(AppendError::Taken { topic: topic.clone(), seq: entry.seq() })
        }
    }

    /// Returns the newest entry of a topic, expired or not.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest(&self, topic: &Topic) -> Result<Option<Newest>, StoreError> {
        let found = self
            .query(topic)
            .scan_index_forward(false)
            .limit(1)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("Query", error))?;
        let Some(item) = found.items.and_then(|items| items.into_iter().next()) else {
            return Ok(None);
        };
        let snapshot = read_number(&item, "snapshot").ok();
        Ok(Some(Newest { entry: read_entry(&item)?, snapshot }))
    }

    /// Returns entries in order, from the one that contains `from` to the one that contains `to`, up to
    /// about `bytes` of compressed bodies. Missing and expired entries are left out.
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
            .expression_attribute_values(":topic", text(topic.as_str()))
            .expression_attribute_values(":from", number(from))
            .consistent_read(true)
            .scan_index_forward(false)
            .limit(1)
            .send()
            .await
            .map_err(|error| StoreError::from_sdk("Query", error))?;
        // Entries are appended concurrently, so `from` counts as read only if its entry was found.
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

    /// Replaces event `seq` with another event. Returns whether the log had that event.
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
        // Frames are changed only here. If the condition fails, another change came in between, and this one
        // starts over with the changed frame.
        loop {
            let entry = self.read(topic, seq, seq, usize::MAX, now).await?.into_iter().next();
            let Some(Entry::Frame(frame)) = entry else { return Ok(false) };
            let old = AttributeValue::B(Blob::new(compress(frame.json())));
            let new = AttributeValue::B(Blob::new(compress(frame.with_event(seq, event).json())));
            let updated = self
                .client
                .update_item()
                .table_name(&self.table)
                .key("topic", text(topic.as_str()))
                .key("seq", number(frame.seq()))
                .update_expression("SET body = :new")
                .condition_expression("body = :old")
                .expression_attribute_values(":old", old)
                .expression_attribute_values(":new", new)
                .send()
                .await;
            if if_met("UpdateItem", updated)?.is_some() {
                return Ok(true);
            }
        }
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

fn read_entry(item: &Attributes) -> Result<Entry, StoreError> {
    let Some(AttributeValue::B(body)) = item.get("body") else {
        let topic = item.get("topic").and_then(|topic| Topic::parse(topic.as_s().ok()?).ok());
        return Ok(Entry::Lost {
            topic: topic.ok_or_else(|| StoreError::corrupt("events", "item has no valid topic"))?,
            seq: read_number(item, "seq")?,
            last: read_number(item, "last")?,
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

fn is_expired(item: &Attributes, now: Timestamp) -> bool {
    read_number(item, "expires_at")
        .is_ok_and(|at| i64::try_from(at).is_ok_and(|at| at <= now.as_second()))
}

fn body_bytes(item: &Attributes) -> usize {
    item.get("body").and_then(|body| body.as_b().ok()).map_or(0, |body| body.as_ref().len())
}

thread_local! {
    // A zstd context takes some hundred kilobytes, so each thread keeps one.
    static COMPRESSOR: RefCell<zstd::bulk::Compressor<'static>> = RefCell::new(
        zstd::bulk::Compressor::new(ZSTD_LEVEL).expect("zstd has the level"),
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
    fn a_body_that_decompresses_to_too_much_is_rejected() {
        let bomb = compress(&vec![0; 64 * 1024 * 1024]);
        assert!(bomb.len() < 100_000 && decompress(&bomb).is_err());
    }

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
