//! The quotas of principals: open connections, and requests per second. They are counted in the
//! `connections` table, so that they apply across all functions and gateways.
//!
//! Each quota of a principal is one small item, in partitions next to those of the shards.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use domain::{connection::ConnectionId, shard::Shards};
use jiff::Timestamp;

use crate::{
    connections::{Connections, Counted, item_key},
    error::StoreError,
    item::{if_met, number},
};

/// The partition of the items that count requests.
const RATE: &str = "rate";

/// How often counted connections are verified, and how old they must be.
const VERIFY_EVERY: Duration = Duration::from_mins(1);

/// The burst, in seconds' worth of requests.
const BURST_S: u64 = 2;

/// How long an unused item that counts requests is kept.
const RATE_FOR: Duration = Duration::from_hours(1);

/// The quotas of principals.
#[derive(Clone, Debug)]
pub struct Quotas {
    client: Client,
    connections: Connections,
}

impl Quotas {
    /// The quotas in the table of these connections.
    pub(crate) fn new(client: Client, connections: &Connections) -> Self {
        Self { client, connections: connections.clone() }
    }

    /// Counts a connection that opens for `who` at `now`, unless `limit` others are open. Returns
    /// whether it was counted.
    ///
    /// Closing a connection makes room again. At the limit, this also removes connections that have ended
    /// without being closed.
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
        let counted = self.connections.counted();
        if counted.add(who, id, limit, now).await? {
            return Ok(true);
        }
        Ok(self.remove_dead(who, shards, now).await? && counted.add(who, id, limit, now).await?)
    }

    /// Removes counted connections that are not open, at most once a minute for each principal.
    /// Returns whether there were any.
    async fn remove_dead(
        &self,
        who: &str,
        shards: &Shards,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let before = now - VERIFY_EVERY;
        let counted = self.connections.counted();
        let all = counted.begin_verification(who, before, now).await?.unwrap_or_default();
        let mut removed = false;
        for connection in &all {
            // A connection that is just opening has no item yet.
            if connection.opened_at_ms >= before.as_millisecond() {
                continue;
            }
            let mut is_open = false;
            for shard in shards.of_old(&connection.id) {
                is_open |= self.connections.get(shard, &connection.id).await?.is_some();
            }
            if !is_open {
                counted.remove(who, connection).await?;
                removed = true;
            }
        }
        Ok(removed)
    }

    /// Removes a connection from the count, because the handshake that began at `opened_at` has failed.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn close(
        &self,
        who: &str,
        id: &ConnectionId,
        opened_at: Timestamp,
    ) -> Result<(), StoreError> {
        self.connections.counted().remove(who, &Counted::new(id, opened_at)).await
    }

    /// Takes `count` requests from the quota of `who`: `per_second`, with a burst of two seconds' worth. If
    /// fewer are left, takes nothing and returns `false`. `idle` means that the quota is probably full.
    ///
    /// The item stores one number: the time at which the quota is full again (the generic cell rate
    /// algorithm).
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
        let Some(charge) = Charge::new(count, per_second, now) else { return Ok(false) };
        // `DynamoDB` expressions have no maximum, so each case is a request of its own.
        for is_full in [idle, !idle] {
            let update = self
                .client
                .update_item()
                .table_name(self.connections.table())
                .set_key(Some(item_key(RATE, who)))
                .expression_attribute_values(":now", number(now.as_microsecond()))
                .expression_attribute_values(":expires", number((now + RATE_FOR).as_second()));
            let update = if is_full {
                update
                    .update_expression("SET free_at = :free, expires_at = :expires")
                    .condition_expression("attribute_not_exists(free_at) OR free_at <= :now")
                    .expression_attribute_values(":free", number(charge.free_at_us))
            } else {
                update
                    .update_expression("SET free_at = free_at + :cost, expires_at = :expires")
                    .condition_expression("free_at > :now AND free_at <= :latest")
                    .expression_attribute_values(":cost", number(charge.cost_us))
                    .expression_attribute_values(":latest", number(charge.latest_us))
            };
            if if_met("UpdateItem", update.send().await)?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The cost of requests, in microseconds of the quota's time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Charge {
    cost_us: u64,
    /// When a full quota is full again after the requests.
    free_at_us: i128,
    /// The latest time at which a quota may be full again and still cover the cost.
    latest_us: i128,
}

impl Charge {
    /// Returns `None` if the quota can never cover so many requests.
    fn new(count: u32, per_second: u32, now: Timestamp) -> Option<Self> {
        let cost_us = (1_000_000 * u64::from(count)).checked_div(u64::from(per_second))?;
        let left_us = (BURST_S * 1_000_000).checked_sub(cost_us)?;
        let now_us = i128::from(now.as_microsecond());
        Some(Self {
            cost_us,
            free_at_us: now_us + i128::from(cost_us),
            latest_us: now_us + i128::from(left_us),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_full_quota_covers_exactly_its_burst(
            count in 0..1_000_u32, per_second in 0..1_000_u32, at in 0..4_000_000_000_i64,
        ) {
            let now = Timestamp::from_second(at).expect("a time");
            let covers = per_second > 0 && count <= 2 * per_second;
            let charge = Charge::new(count, per_second, now);
            prop_assert_eq!(charge.is_some(), covers);
            if let Some(charge) = charge {
                let burst = charge.free_at_us + charge.latest_us - 2 * i128::from(now.as_microsecond());
                prop_assert_eq!(burst, i128::from(BURST_S * 1_000_000));
            }
        }
    }
}
