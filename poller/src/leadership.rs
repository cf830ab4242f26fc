//! The leases that this poller holds: for each family of sources, whether it is the leader.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use aws::control::leases::Lease;
use domain::topic::Topic;
use tokio::{sync::watch, time::Instant};

/// How long a lease lasts if it is not renewed.
pub const TERM: Duration = Duration::from_secs(10);

/// The leases that this poller holds, by family. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Leadership {
    leases: Arc<watch::Sender<BTreeMap<String, Held>>>,
}

/// Whether this poller may number a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It may, with this lease. The system's own topics need none.
    Leads(Option<Lease>),
    /// It may not: the lease has expired, or another poller has it.
    Waits,
}

#[derive(Clone, Debug)]
struct Held {
    lease: Lease,
    until: Instant,
}

impl Leadership {
    /// Adds a lease that was requested at `requested_at`. It lasts for [`TERM`] from then.
    pub fn add(&self, lease: Lease, requested_at: Instant) {
        let held = Held { until: requested_at + TERM, lease };
        self.leases.send_modify(|leases| {
            leases.insert(held.lease.source.clone(), held);
        });
    }

    /// Notes that the lease of a family was renewed by a request at `requested_at`.
    pub fn renew(&self, family: &str, requested_at: Instant) {
        let now = Instant::now();
        self.leases.send_if_modified(|leases| {
            let Some(held) = leases.get_mut(family) else { return false };
            let had_expired = held.until <= now;
            held.until = held.until.max(requested_at + TERM);
            had_expired && held.until > now
        });
    }

    /// Removes the lease of a family, such as `coinbase`.
    pub fn remove(&self, family: &str) {
        self.leases.send_modify(|leases| {
            leases.remove(family);
        });
    }

    /// Returns the leases that have not expired.
    pub fn all(&self) -> Vec<Lease> {
        let now = Instant::now();
        let leases = self.leases.borrow();
        leases.values().filter(|it| it.until > now).map(|it| it.lease.clone()).collect()
    }

    /// Returns the lease of the family that a topic belongs to, unless it has expired.
    pub fn lease_of(&self, topic: &Topic) -> Option<Lease> {
        let leases = self.leases.borrow();
        let held = leases.get(topic.source()).filter(|held| held.until > Instant::now())?;
        Some(held.lease.clone())
    }

    /// Returns whether this poller may number a topic, and with which lease.
    pub(crate) fn standing(&self, topic: &Topic) -> Standing {
        if is_leaderless(topic) {
            return Standing::Leads(None);
        }
        self.lease_of(topic).map_or(Standing::Waits, |lease| Standing::Leads(Some(lease)))
    }

    /// Waits until this poller may number a topic.
    pub(crate) async fn until_leads(&self, topic: &Topic) {
        let mut changes = self.changes();
        while !self.leads(topic) {
            changes.changed().await;
        }
    }

    /// Returns whether this poller may number a topic and send its events.
    ///
    /// The system's own topics have no leader: if two pollers write at the same time, the second
    /// one takes the next number. Every leader sends them.
    pub fn leads(&self, topic: &Topic) -> bool {
        is_leaderless(topic) || self.lease_of(topic).is_some()
    }

    /// Returns a receiver that is notified when a lease is added, removed, or renewed after it expired.
    pub(crate) fn changes(&self) -> Changes {
        Changes(self.leases.subscribe())
    }
}

/// Is notified when a lease is added, removed, or renewed after it expired.
#[derive(Debug)]
pub(crate) struct Changes(watch::Receiver<BTreeMap<String, Held>>);

impl Changes {
    /// Waits until a lease is added or removed.
    pub(crate) async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// Returns whether every poller may write to a topic.
pub fn is_leaderless(topic: &Topic) -> bool {
    topic.source() == "system"
}

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    fn lease(epoch: u64) -> Lease {
        Lease { source: "coinbase".to_owned(), owner: "me".to_owned(), epoch }
    }

    #[tokio::test(start_paused = true)]
    async fn a_poller_leads_the_topics_of_its_families_and_those_of_the_system() {
        let topic = |text: &str| Topic::parse(text).expect("a topic");
        let (ticker, public) = (topic("coinbase/ticker/BTC-USD"), topic("mastodon/public"));
        let leadership = Leadership::default();
        assert!(leadership.leads(&Topic::system_sources()));
        assert!(!leadership.leads(&ticker));
        leadership.add(lease(3), Instant::now());
        assert!(leadership.leads(&ticker));
        assert!(!leadership.leads(&public));
        assert_eq!(leadership.lease_of(&ticker), Some(lease(3)));
        assert_eq!(leadership.all(), [lease(3)]);
        leadership.remove("coinbase");
        assert!(!leadership.leads(&ticker));
        assert_eq!(leadership.all(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_that_is_not_renewed_expires_by_itself() {
        let ticker = Topic::parse("coinbase/ticker/BTC-USD").expect("a topic");
        let leadership = Leadership::default();
        leadership.add(lease(1), Instant::now());
        time::advance(TERM / 2).await;
        leadership.renew("coinbase", Instant::now());
        time::advance(TERM.saturating_sub(Duration::from_millis(1))).await;
        assert!(leadership.leads(&ticker));
        time::advance(Duration::from_millis(1)).await;
        assert!(!leadership.leads(&ticker) && leadership.all().is_empty());
        leadership.renew("mastodon", Instant::now());
        assert!(leadership.all().is_empty(), "it has no such lease");
        let waiting = leadership.until_leads(&ticker);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        leadership.renew("coinbase", Instant::now() - TERM);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        leadership.renew("coinbase", Instant::now());
        waiting.await;
        assert_eq!(leadership.standing(&ticker), Standing::Leads(Some(lease(1))));
    }
}
