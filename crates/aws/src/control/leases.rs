//! Leases: which poller leads a source.

use std::{collections::BTreeMap, time::Duration};

use aws_sdk_dynamodb::{
    operation::update_item::builders::UpdateItemFluentBuilder,
    types::{AttributeValue, ReturnValue},
};
use jiff::Timestamp;

use super::{Control, key};
use crate::{
    error::StoreError,
    item::{Attributes, if_met, number, text},
};

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

impl Control {
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

    /// Returns who leads each source, by source. Expired leases are left out.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn leaders(&self, now: Timestamp) -> Result<BTreeMap<String, String>, StoreError> {
        let mut leaders = BTreeMap::new();
        for item in self.items("lease").await? {
            let lapses_at = item.get("lapses_at").and_then(|at| at.as_n().ok()?.parse().ok());
            let is_held = lapses_at.is_some_and(|at: i64| at > now.as_millisecond());
            if let (Some(AttributeValue::S(source)), Some(AttributeValue::S(owner)), true) =
                (item.get("sk"), item.get("lease_owner"), is_held)
            {
                leaders.insert(source.clone(), owner.clone());
            }
        }
        Ok(leaders)
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
}
