//! The leases that this poller holds: for each family of sources, whether it is the leader.

use std::{collections::HashMap, sync::Arc, time::Duration};

use aws::control::Lease;
use domain::topic::Topic;
use parking_lot::Mutex;

/// How long a lease lasts if it is not renewed.
pub const TERM: Duration = Duration::from_secs(10);

/// The leases that this poller holds, by family. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    leases: Arc<Mutex<HashMap<String, Lease>>>,
}

impl Leadership {
    /// Adds a lease that was acquired.
    pub fn add(&self, lease: Lease) {
        self.leases.lock().insert(lease.source.clone(), lease);
    }

    /// Removes the lease of a family, such as `coinbase`.
    pub fn remove(&self, family: &str) {
        self.leases.lock().remove(family);
    }

    /// Returns all leases.
    pub fn all(&self) -> Vec<Lease> {
        self.leases.lock().values().cloned().collect()
    }

    /// Returns the lease of the family that a topic belongs to.
    pub fn lease_of(&self, topic: &Topic) -> Option<Lease> {
        self.leases.lock().get(topic.source()).cloned()
    }

    /// Returns whether this poller may number a topic, according to its own leases.
    ///
    /// The system's own topics have no leader: if two pollers write at the same time, the second
    /// one takes the next number.
    pub fn leads(&self, topic: &Topic) -> bool {
        is_leaderless(topic) || self.leases.lock().contains_key(topic.source())
    }
}

/// Returns whether every poller may write to a topic.
pub fn is_leaderless(topic: &Topic) -> bool {
    topic.source() == "system"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_poller_leads_the_topics_of_its_families_and_those_of_the_system() {
        let topic = |text: &str| Topic::parse(text).expect("a topic");
        let ticker = topic("coinbase/ticker/BTC-USD");
        let public = topic("mastodon/public");
        let leadership = Leadership::default();
        assert!(leadership.leads(&Topic::system_sources()));
        assert!(!leadership.leads(&ticker));
        let lease = Lease { source: "coinbase".to_owned(), owner: "me".to_owned(), epoch: 3 };
        leadership.add(lease.clone());
        assert!(leadership.leads(&ticker));
        assert!(!leadership.leads(&public));
        assert_eq!(leadership.lease_of(&ticker), Some(lease.clone()));
        assert_eq!(leadership.all(), [lease]);
        leadership.remove("coinbase");
        assert!(!leadership.leads(&ticker));
        assert_eq!(leadership.all(), []);
    }
}
