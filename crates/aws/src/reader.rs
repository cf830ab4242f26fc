//! Following one shard of the `connections` table.

use std::{collections::HashMap, time::Duration};

use domain::{
    connection::{Connection, ConnectionId, LIFETIME},
    shard::Shard,
};
use jiff::Timestamp;

use crate::{connections::Connections, error::StoreError};

/// How the reader sweeps the index: each sweep asks for what changed since its last one, and some time
/// before that, because the index lags and the clocks of the writers differ. The first, cheapest sweep
/// finds most changes; the others find those that came later. The last one reads all connections that
/// can be open: each changes when it opens.
const SWEEPS: [Sweep; 4] = [
    Sweep { every: Duration::ZERO, overlap: Duration::from_secs(2) },
    Sweep { every: Duration::from_secs(2), overlap: Duration::from_secs(15) },
    Sweep { every: Duration::from_secs(30), overlap: Duration::from_mins(2) },
    Sweep { every: Duration::from_mins(5), overlap: LIFETIME },
];

/// How long a version that was returned is remembered. Older changes can be returned again.
const SEEN_FOR: Duration = Duration::from_mins(10);

#[derive(Clone, Copy, Debug)]
struct Sweep {
    every: Duration,
    overlap: Duration,
}

/// Reads the open connections of a shard once and then only its changes, so that the cost depends on
/// the rate of changes and not on the number of connections.
#[derive(Debug)]
pub struct ShardReader {
    connections: Connections,
    shard: Shard,
    /// When each of [`SWEEPS`] was last made, by this reader's clock.
    swept_at: [Timestamp; SWEEPS.len()],
    /// When each connection that was returned changed, and its version.
    seen: HashMap<ConnectionId, (Timestamp, u64)>,
}

impl ShardReader {
    /// A reader that has read nothing yet.
    pub fn new(connections: Connections, shard: Shard) -> Self {
        let swept_at = [Timestamp::UNIX_EPOCH; SWEEPS.len()];
        Self { connections, shard, swept_at, seen: HashMap::new() }
    }

    /// Reads what has changed since the last call, closed connections included. The first call reads
    /// all connections.
    ///
    /// A connection can be returned again. It has changed only if its version is higher.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails; the next call reads what this one missed.
    pub async fn refresh(&mut self, now: Timestamp) -> Result<Vec<Connection>, StoreError> {
        let is_due = |index: &usize| self.swept_at[*index] + SWEEPS[*index].every <= now;
        let widest = (0..SWEEPS.len()).rfind(is_due).unwrap_or_default();
        let last = self.swept_at[widest].min(now);
        let since = (last - SWEEPS[widest].overlap).max(now - LIFETIME);
        let mut changed = self.connections.changes(self.shard, since).await?;
        // The narrower sweeps are part of this one.
        self.swept_at[..=widest].fill(now);
        changed.retain(|connection| {
            let seen = self.seen.get(&connection.recipient.id);
            seen.is_none_or(|(_, version)| *version < connection.version)
        });
        let oldest = now - SEEN_FOR;
        self.seen.retain(|_, (changed_at, _)| *changed_at >= oldest);
        for connection in &changed {
            if connection.changed_at >= oldest {
                let seen = (connection.changed_at, connection.version);
                self.seen.insert(connection.recipient.id.clone(), seen);
            }
        }
        Ok(changed)
    }
}
