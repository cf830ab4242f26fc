//! The open connections of each principal whose connections are limited.
//!
//! There is one item for each principal, in a partition next to those of the shards.

use aws_sdk_dynamodb::{
    Client,
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{AttributeValue, ReturnValue},
};
use domain::connection::{ConnectionId, LIFETIME};
use jiff::Timestamp;

use super::item::item_key;
use crate::{
    error::StoreError,
    item::{if_met, number},
};

/// The partition of these items.
const OPEN: &str = "open";

/// The items, in the `connections` table.
#[derive(Clone, Debug)]
pub(crate) struct CountedConnections {
    client: Client,
    table: String,
}

/// A connection that counts as open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    /// The connection.
    pub(crate) id: ConnectionId,
    /// When its handshake began, in milliseconds since 1970.
    pub(crate) opened_at_ms: i64,
}

impl Counted {
    /// Describes a connection that opened at `opened_at`.
    pub(crate) fn new(id: &ConnectionId, opened_at: Timestamp) -> Self {
        Self { id: id.clone(), opened_at_ms: opened_at.as_millisecond() }
    }

    /// Returns how the connection is written in the set of an item.
    fn entry(&self) -> String {
        format!("{}@{}", self.id, self.opened_at_ms)
    }

    fn parse(entry: &str) -> Option<Self> {
        let (id, opened_at) = entry.rsplit_once('@')?;
        Some(Self { id: ConnectionId::new(id), opened_at_ms: opened_at.parse().ok()? })
    }
}

impl CountedConnections {
    /// The items in this table.
    pub(crate) fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// Adds a connection that opens at `now`, unless the principal has `limit` others. Returns whether
    /// it was added.
    pub(crate) async fn add(
        &self,
        who: &str,
        id: &ConnectionId,
        limit: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        // The newest connection is the last to expire, so the item expires with it.
        let added = self
            .update(who)
            .update_expression("SET expires_at = :expires ADD ids :id")
            .condition_expression(
                ":limit > :none AND (attribute_not_exists(ids) OR size(ids) < :limit)",
            )
            .expression_attribute_values(":id", set_of(&Counted::new(id, now)))
            .expression_attribute_values(":limit", number(limit))
            .expression_attribute_values(":none", number(0))
            .expression_attribute_values(":expires", number((now + LIFETIME).as_second()))
            .send()
            .await;
        Ok(if_met("UpdateItem", added)?.is_some())
    }

    /// Removes a connection. Does nothing if the connection is not counted.
    pub(crate) async fn remove(&self, who: &str, counted: &Counted) -> Result<(), StoreError> {
        let removed = self
            .update(who)
            .update_expression("DELETE ids :id")
            .condition_expression("attribute_exists(ids)")
            .expression_attribute_values(":id", set_of(counted))
            .send()
            .await;
        if_met("UpdateItem", removed)?;
        Ok(())
    }

    /// Notes that the principal's connections are verified at `now`, and returns them; `None` if
    /// they were verified after `before`, or if there are none.
    pub(crate) async fn begin_verification(
        &self,
        who: &str,
        before: Timestamp,
        now: Timestamp,
    ) -> Result<Option<Vec<Counted>>, StoreError> {
        let begun = self
            .update(who)
            .update_expression("SET looked_at = :now")
            .condition_expression(
                "attribute_exists(ids) AND (attribute_not_exists(looked_at) OR looked_at < :before)",
            )
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":before", number(before.as_millisecond()))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let Some(begun) = if_met("UpdateItem", begun)? else { return Ok(None) };
        let ids = begun.attributes().and_then(|item| item.get("ids")?.as_ss().ok());
        Ok(Some(ids.into_iter().flatten().filter_map(|entry| Counted::parse(entry)).collect()))
    }

    fn update(&self, who: &str) -> UpdateItemFluentBuilder {
        self.client.update_item().table_name(&self.table).set_key(Some(item_key(OPEN, who)))
    }
}

fn set_of(counted: &Counted) -> AttributeValue {
    AttributeValue::Ss(vec![counted.entry()])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_entry_is_read_as_it_was_written(id in "\\PC{1,40}", opened_at_ms in any::<i64>()) {
            let counted = Counted { id: ConnectionId::new(id), opened_at_ms };
            prop_assert_eq!(Counted::parse(&counted.entry()), Some(counted));
        }

        #[test]
        fn no_entry_panics(entry in "\\PC{0,40}") {
            let _ = Counted::parse(&entry);
        }
    }
}
