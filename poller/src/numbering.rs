//! Numbering: gives events their numbers, packs them into frames and appends those to the log.

use aws::tables::Tables;
use domain::topic::Topic;

use crate::feed::Outgoing;

/// Everything that waits for its number. Clones share it.
#[derive(Clone)]
pub struct Numbering {
    tables: Tables,
}

impl Numbering {
    /// The tables it writes to.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Puts an event behind those that wait on a topic.
    pub fn publish(&self, _topic: &Topic, _event: Outgoing) {}
}
