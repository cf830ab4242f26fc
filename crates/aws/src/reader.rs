//! Following one shard of the `connections` table.

use std::{collections::HashMap, time::Duration};

use domain::{
    connection::{Connection, ConnectionId, LIFETIME},
    shard::Shard,
};
use jiff::Timestamp;

use crate::{connections::Connections, error::StoreError};

/// How far each query of the index overlaps with the one before. The index lags, and the clocks of the
/// writers differ.
const OVERLAP: Duration = Duration::from_secs(2);

/// How often the whole shard is read again, in case the index lagged by more than the overlap.
const RELOAD_AFTER: Duration = Duration::from_mins(5);

/// Reads a shard once and then only its changes, so that the cost depends on the rate of changes and not
/// on the number of connections.
#[derive(Debug)]
pub struct ShardReader {
    connections: Connections,
    shard: Shard,
    loaded_at: Option<Timestamp>,
    /// The time of the newest change that was seen, or the time at which the shard was read.
    horizon: Timestamp,
    /// The version of each connection that changed within the overlap.
    seen: HashMap<ConnectionId, (Timestamp, u64)>,
}

/// What a reader found.
#[derive(Debug)]
pub enum Refresh {
    /// All open connections of the shard.
    All(Vec<Connection>),
    /// The connections that changed, closed ones included.
    Changed(Vec<Connection>),
}

impl ShardReader {
    /// A reader that has read nothing yet.
    pub fn new(connections: Connections, shard: Shard) -> Self {
        Self {
            connections,
            shard,
            loaded_at: None,
            horizon: Timestamp::UNIX_EPOCH,
            seen: HashMap::new(),
        }
    }

    /// Reads what has changed since the last call.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails; the next call reads what this one missed.
    pub async fn refresh(&mut self, now: Timestamp) -> Result<Refresh, StoreError> {
        let stale = self.loaded_at.is_none_or(|at| at + RELOAD_AFTER < now);
        if stale {
            let mut all = self.connections.all(self.shard).await?;
            all.retain(|connection| !connection.gone && connection.connected_at + LIFETIME > now);
            self.loaded_at = Some(now);
            self.horizon = now;
            self.seen.clear();
            self.remember(&all);
            return Ok(Refresh::All(all));
        }
        let mut changed = self.connections.changes(self.shard, self.horizon - OVERLAP).await?;
        changed.retain(|connection| {
            let seen = self.seen.get(&connection.recipient.id);
            seen.is_none_or(|(_, version)| *version < connection.version)
        });
        if let Some(newest) = changed.iter().map(|connection| connection.changed_at).max() {
            self.horizon = self.horizon.max(newest);
        }
        self.remember(&changed);
        Ok(Refresh::Changed(changed))
    }

    fn remember(&mut self, connections: &[Connection]) {
        let oldest = self.horizon - OVERLAP;
        self.seen.retain(|_, (changed_at, _)| *changed_at >= oldest);
        for connection in connections {
            if connection.changed_at >= oldest {
                let seen = (connection.changed_at, connection.version);
                self.seen.insert(connection.recipient.id.clone(), seen);
            }
        }
    }
}
