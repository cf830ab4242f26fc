//! Deletes expired events, some time after they have expired, and remembers them for the checks.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws::log::Log;
use domain::{entry::Entry, topic::Topic};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time;

use crate::{database::Database, trace::Trace};

/// Longest time after its expiry that an event remains.
const DELETED_WITHIN: Duration = Duration::from_secs(30);

/// The events that were deleted.
#[derive(Clone, Default)]
pub(crate) struct Expired(Arc<Mutex<BTreeMap<Topic, BTreeMap<u64, Entry>>>>);

impl Expired {
    /// Returns the entries of a topic as if nothing had been deleted.
    pub(crate) fn restore(&self, topic: &Topic, entries: &[Entry]) -> Vec<Entry> {
        let mut all = self.0.lock().get(topic).cloned().unwrap_or_default();
        all.extend(entries.iter().map(|entry| (entry.seq(), entry.clone())));
        all.into_values().collect()
    }

    /// Deletes what expires.
    pub(crate) async fn delete(
        self,
        log: Log,
        database: Database,
        topics: Vec<Topic>,
        mut rng: fastrand::Rng,
        now: impl Fn() -> Timestamp,
        trace: Trace,
    ) {
        loop {
            time::sleep(Duration::from_secs(3)).await;
            for topic in &topics {
                // Expired entries count too.
                let epoch = Timestamp::UNIX_EPOCH;
                let Ok(entries) = log.read(topic, 1, u64::MAX, usize::MAX, epoch).await else {
                    continue;
                };
                for entry in entries {
                    let Entry::Frame(frame) = &entry else { continue };
                    let late = DELETED_WITHIN.mul_f64(rng.f64());
                    if frame.at() + log.retention() + late > now() {
                        continue;
                    }
                    let seq = entry.seq();
                    self.0.lock().entry(topic.clone()).or_default().insert(seq, entry);
                    database.delete_event(topic, seq);
                    trace.count("database: deleted events");
                }
            }
        }
    }
}
