//! Heads: the numbers that the events of a topic may have.

use domain::topic::Topic;

use super::{Control, read_value, value_item};
use crate::{
    error::StoreError,
    item::{if_met, number},
};

/// The numbers that a topic's events may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The highest of them.
    pub last: u64,
    /// The epoch of the leader that reserved them; `None` for a topic without a leader.
    pub epoch: Option<u64>,
}

impl Control {
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

    /// Reserves the numbers of a topic without a leader up to `seq`. Returns `false` if they are reserved already.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn reserve(&self, topic: &Topic, seq: u64) -> Result<bool, StoreError> {
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
        Ok(if_met("PutItem", put)?.is_some())
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
}
