//! The newest numbers of topics. Clients compare them with what they have, so that no loss at the end of a
//! topic stays unnoticed.

use std::collections::BTreeMap;

use aws::error::StoreError;
use domain::topic::Topic;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::app::App;

/// Number of topics that are read concurrently.
const CONCURRENCY: usize = 16;

impl App {
    /// Returns the newest number of each topic; 0 for a topic without events. Takes one query per topic.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub(crate) async fn heads(
        &self,
        topics: impl IntoIterator<Item = Topic>,
    ) -> Result<BTreeMap<Topic, u64>, StoreError> {
        let mut reading = Vec::new();
        for topic in topics {
            reading.push(self.head(topic));
        }
        stream::iter(reading).buffer_unordered(CONCURRENCY).try_collect().await
    }

    async fn head(&self, topic: Topic) -> Result<(Topic, u64), StoreError> {
        let newest = self.tables.log.newest(&topic).await?;
        let head = newest.map_or(0, |newest| newest.entry.last());
        Ok((topic, head))
    }
}
