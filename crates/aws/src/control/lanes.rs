//! How far the leaders have served each shard, and how many shards there are.

use std::{collections::BTreeMap, time::Duration};

use domain::{push::Behind, shard::Shard, topic::Topic};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{Control, leases::Lease, value_item};
use crate::{
    error::StoreError,
    item::{if_met, number},
};

/// How long a note of the number of shards is valid. It is written again after a day.
const SHARDS_FOR: Duration = Duration::from_hours(48);

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

impl Control {
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
}

/// Returns the partition of what the leaders of a family have sent.
fn lane_key(family: &str) -> String {
    format!("lane/{family}")
}
