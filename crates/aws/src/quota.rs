//! What principals use up, counted in the `connections` table so that it holds across functions and
//! gateways: connections that are open at the same time, and requests a second.
//!
//! Both are one small item for each who is counted, in partitions beside those of the shards.

use std::{collections::HashMap, fmt::Display, time::Duration};

use aws_sdk_dynamodb::{
    Client,
    error::SdkError,
    types::{AttributeValue, ReturnValue},
};
use domain::connection::ConnectionId;
use jiff::Timestamp;

use crate::{
    connections::{Connections, LIFETIME, Shards},
    error::StoreError,
};

/// Partition of the items that name open connections.
const OPEN: &str = "open";

/// Partition of the items that count requests.
const RATE: &str = "rate";

/// How often connections that died untold are looked for, and how old they have to be.
const FORGET_EVERY: Duration = Duration::from_mins(1);

/// How many seconds' worth may be used at once.
const BURST_S: u64 = 2;

/// How long an item that counts requests stays unused.
const RATE_FOR: Duration = Duration::from_hours(1);

/// What is counted.
#[derive(Clone, Debug)]
pub struct Quotas {
    client: Client,
    table: String,
    connections: Connections,
}

impl Quotas {
    /// The quotas in the table of these connections.
    pub fn new(client: Client, connections: &Connections) -> Self {
        let table = connections.table().to_owned();
        Self { client, table, connections: connections.clone() }
    }

    /// Counts a connection that opens for `who` at `now`, unless `limit` others are open. Closing
    /// the connection makes room again; connections that died untold are found when room is wanted.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn open(
        &self,
        who: &str,
        id: &ConnectionId,
        limit: u32,
        shards: &Shards,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        if self.try_open(who, id, limit, now).await? {
            return Ok(true);
        }
        Ok(self.forget_dead(who, shards, now).await? && self.try_open(who, id, limit, now).await?)
    }

    async fn try_open(
        &self,
        who: &str,
        id: &ConnectionId,
        limit: u32,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        // No connection outlives the item, if it is the last that opened.
        let updated = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(OPEN, who)))
            .update_expression("SET expires_at = :expires ADD ids :id")
            .condition_expression(
                ":limit > :none AND (attribute_not_exists(ids) OR size(ids) < :limit)",
            )
            .expression_attribute_values(":id", AttributeValue::Ss(vec![entry(id, now)]))
            .expression_attribute_values(":limit", number(limit))
            .expression_attribute_values(":none", number(0))
            .expression_attribute_values(":expires", number((now + LIFETIME).as_second()))
            .send()
            .await;
        passed(updated.map(|_| ()))
    }

    /// Takes connections out of the count that are not open, and returns whether there were any.
    /// Whoever is refused again and again has this done once a minute.
    async fn forget_dead(
        &self,
        who: &str,
        shards: &Shards,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let before = now - FORGET_EVERY;
        let begun = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(key(OPEN, who)))
            .update_expression("SET looked_at = :now")
            .condition_expression(
                "attribute_exists(ids) AND (attribute_not_exists(looked_at) OR looked_at < :before)",
            )
            .expression_attribute_values(":now", number(now.as_millisecond()))
            .expression_attribute_values(":before", number(before.as_millisecond()))
            .return_values(ReturnValue::AllOld)
            .send()
            .await;
        let old = begun.as_ref().ok().and_then(|begun| begun.attributes.clone());
        if !passed(begun.map(|_| ()))? {
            return Ok(false);
        }
        let entries = old.as_ref().and_then(|item| item.get("ids")?.as_ss().ok());
        let mut forgot = false;
        for entry in entries.into_iter().flatten() {
            let Some((id, opened_at)) = entry.rsplit_once('@') else { continue };
            // One that is just opening has no item yet.
            if opened_at.parse().is_ok_and(|at: i64| at >= before.as_millisecond()) {
                continue;
            }
            let id = ConnectionId::new(id);
            let mut is_open = false;
            for shard in shards.of_old(&id) {
                is_open |= self.connections.get(shard, &id).await?.is_some();
            }
            if !is_open {
                remove(&self.client, &self.table, who, entry.clone()).await?;
                forgot = true;
            }
        }
        Ok(forgot)
    }

    /// Takes a connection that did not open at `now` out of the count.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn close(
        &self,
        who: &str,
        id: &ConnectionId,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        close(&self.client, &self.table, who, id, now).await
    }

    /// Takes `count` of what `who` may use of `per_second`, with a burst of two seconds' worth, or
    /// nothing if there is less. `idle` says that little is likely to be used up.
    ///
    /// One number is kept: when all will be free again (the generic cell rate algorithm).
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn take(
        &self,
        who: &str,
        count: u32,
        per_second: u32,
        idle: bool,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let cost = 1_000_000 * u64::from(count) / u64::from(per_second.max(1));
        let burst = BURST_S * 1_000_000;
        if per_second == 0 || cost > burst {
            return Ok(false);
        }
        // `DynamoDB` has no maximum, so there is a request for each case.
        for is_free in [idle, !idle] {
            let update = self
                .client
                .update_item()
                .table_name(&self.table)
                .set_key(Some(key(RATE, who)))
                .expression_attribute_values(":now", number(now.as_microsecond()))
                .expression_attribute_values(":expires", number((now + RATE_FOR).as_second()));
            let update = if is_free {
                let free_at = i128::from(now.as_microsecond()) + i128::from(cost);
                update
                    .update_expression("SET free_at = :free, expires_at = :expires")
                    .condition_expression("attribute_not_exists(free_at) OR free_at <= :now")
                    .expression_attribute_values(":free", number(free_at))
            } else {
                let latest = i128::from(now.as_microsecond()) + i128::from(burst - cost);
                update
                    .update_expression("SET free_at = free_at + :cost, expires_at = :expires")
                    .condition_expression("free_at > :now AND free_at <= :latest")
                    .expression_attribute_values(":cost", number(cost))
                    .expression_attribute_values(":latest", number(latest))
            };
            if passed(update.send().await.map(|_| ()))? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Takes a connection that opened at `opened_at` out of the count.
pub(crate) async fn close(
    client: &Client,
    table: &str,
    who: &str,
    id: &ConnectionId,
    opened_at: Timestamp,
) -> Result<(), StoreError> {
    remove(client, table, who, entry(id, opened_at)).await
}

async fn remove(client: &Client, table: &str, who: &str, entry: String) -> Result<(), StoreError> {
    client
        .update_item()
        .table_name(table)
        .set_key(Some(key(OPEN, who)))
        .update_expression("DELETE ids :id")
        .condition_expression("attribute_exists(ids)")
        .expression_attribute_values(":id", AttributeValue::Ss(vec![entry]))
        .send()
        .await
        .map_or_else(|error| passed(Err(error)), |_| Ok(true))
        .map(|_| ())
}

/// How a connection stands in the set of those that are open.
fn entry(id: &ConnectionId, opened_at: Timestamp) -> String {
    format!("{id}@{}", opened_at.as_millisecond())
}

fn passed<R>(
    sent: Result<(), SdkError<aws_sdk_dynamodb::operation::update_item::UpdateItemError, R>>,
) -> Result<bool, StoreError>
where
    R: std::fmt::Debug + Send + Sync + 'static,
{
    match sent {
        Ok(()) => Ok(true),
        Err(SdkError::ServiceError(error))
            if error.err().is_conditional_check_failed_exception() =>
        {
            Ok(false)
        }
        Err(error) => Err(StoreError::from_sdk("UpdateItem", error)),
    }
}

fn key(kind: &str, who: &str) -> HashMap<String, AttributeValue> {
    [
        ("shard".to_owned(), AttributeValue::S(kind.to_owned())),
        ("connection_id".to_owned(), AttributeValue::S(who.to_owned())),
    ]
    .into()
}

fn number(value: impl Display) -> AttributeValue {
    AttributeValue::N(value.to_string())
}
