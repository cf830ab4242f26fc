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

/// The entries that were deleted, by topic and first number.
#[derive(Clone, Default)]
pub(crate) struct Expired(Arc<Mutex<BTreeMap<Topic, BTreeMap<u64, Entry>>>>);

impl Expired {
    /// Returns the entries of a topic as if nothing had been deleted.
    pub(crate) fn restore(&self, topic: &Topic, retained: &[Entry]) -> Vec<Entry> {
        let deleted = self.0.lock().get(topic).cloned().unwrap_or_default();
        // A number that was used twice is there twice.
        let mut entries: Vec<Entry> = deleted.into_values().chain(retained.to_vec()).collect();
        entries.sort_by_key(Entry::seq);
        entries
    }

    /// Deletes what expires.
    pub(crate) async fn delete(
        self,
        log: Log,
        database: Database,
        topics: Vec<Topic>,
        rng: fastrand::Rng,
        now: impl Fn() -> Timestamp,
        trace: Trace,
    ) {
        let seed = rng.get_seed();
        time::sleep(log.retention()).await;
        loop {
            time::sleep(Duration::from_secs(3)).await;
            for topic in &topics {
                // Expired entries count too.
                let epoch = Timestamp::UNIX_EPOCH;
                let Ok(entries) = log.read(topic, 1, u64::MAX, usize::MAX, epoch).await else {
                    continue;
                };
                // Lost events have no time of their own.
                let mut at = epoch;
                for entry in entries {
                    if let Entry::Frame(frame) = &entry {
                        at = frame.at();
                    }
                    let seq = entry.seq();
                    let late = DELETED_WITHIN.mul_f64(fastrand::Rng::with_seed(seed ^ seq).f64());
                    if at == epoch || at + log.retention() + late > now() {
                        continue;
                    }
                    let mut deleted = self.0.lock();
                    if deleted.entry(topic.clone()).or_default().insert(seq, entry).is_some() {
                        trace.violation(&format!("{topic}: {seq} was used again"));
                    }
                    database.delete_event(topic, seq);
                    trace.count("database: deleted events");
                }
            }
        }
    }
}
