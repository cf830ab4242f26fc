//! Leases: one poller is the leader of a family of sources, and a standby takes over when its lease
//! expires.
//!
//! A database that does not respond is not a lost lease. The leader writes nothing after its term, but
//! it goes on reading, and goes on writing as soon as it can renew the lease. The lease is lost when the
//! database reports that another poller has acquired it.

use std::{sync::Arc, time::Duration};

use aws::{
    control::{Control, leases::Lease},
    error::StoreError,
};
use domain::{chain::Chain, clock::Clock};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{leadership::TERM, numbering::Numbering};

/// How often a lease is renewed, and how often a standby tries to acquire it.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// How long to wait after the database did not respond. The leader writes nothing until it has renewed its
/// lease.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// Runs `lead` whenever this poller, called `owner`, holds the lease of `family`, until `shutdown`.
/// `lead` gets the lease, and a token that is canceled when the lease is lost.
pub async fn hold<F, Fut>(
    control: Control,
    numbering: Numbering,
    family: &str,
    owner: Arc<str>,
    clock: Clock,
    shutdown: CancellationToken,
    lead: F,
) where
    F: Fn(Lease, CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut is_standby = false;
    while !shutdown.is_cancelled() {
        let requested_at = Instant::now();
        let mut pause = RENEW_EVERY;
        match control.acquire(family, &owner, TERM, clock.now()).await {
            Ok(Some(lease)) => {
                info!(family, epoch = lease.epoch, "acquired the lease; this poller is the leader");
                is_standby = false;
                numbering.lead(lease.clone(), requested_at);
                let term = shutdown.child_token();
                let renew = || control.renew(&lease, TERM, clock.now());
                let lead = async {
                    numbering.recover(family).await;
                    lead(lease.clone(), term.clone()).await;
                };
                tokio::select! {
                    () = lead => {}
                    () = keep(family, renew, |at| numbering.renewed(family, at)) => {
                        term.cancel();
                        warn!(family, epoch = lease.epoch, "lost the lease");
                    }
                }
                if shutdown.is_cancelled() {
                    // The last events are not in the log yet. The lease is released after they are
                    // appended.
                    return;
                }
                numbering.follow(family);
            }
            Ok(None) => {
                if !is_standby {
                    info!(family, "another poller is the leader; standing by");
                }
                is_standby = true;
            }
            Err(error) => {
                warn!(family, error = %Chain(&error), "could not acquire the lease; retrying");
                pause = RETRY_AFTER;
            }
        }
        shutdown.run_until_cancelled(time::sleep(pause)).await;
    }
}

/// Renews a lease until another poller has it.
///
/// A renewal after the term is as good as one within it: it succeeds only if nobody has acquired the
/// lease in between, and if it does, nobody else can until the end of the next term.
async fn keep<F, Fut>(family: &str, renew: F, renewed: impl Fn(Instant))
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<bool, StoreError>>,
{
    let mut renewed_at = Instant::now();
    let mut has_expired = false;
    let mut pause = RENEW_EVERY;
    loop {
        time::sleep(pause).await;
        pause = RENEW_EVERY;
        let attempt = Instant::now();
        match renew().await {
            Ok(true) => {
                if has_expired {
                    info!(family, "renewed the lease after it had expired; nobody else has led");
                }
                has_expired = false;
                renewed_at = attempt;
                renewed(attempt);
            }
            Ok(false) => return,
            Err(error) => {
                warn!(family, error = %Chain(&error), "could not renew the lease; retrying");
                pause = RETRY_AFTER;
            }
        }
        if !has_expired && renewed_at.elapsed() >= TERM {
            has_expired = true;
            warn!(family, "the lease has expired; events are kept in memory until it is renewed");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    /// The result of a renewal.
    #[derive(Clone, Copy)]
    enum Renewal {
        Held,
        Lost,
        Failed,
        /// The database takes this many seconds to fail.
        Slow(u64),
    }
    use Renewal::{Failed, Held, Lost, Slow};

    /// Returns after how many seconds a lease is lost, given the results of its renewals.
    async fn lost_after(renewals: &[Renewal]) -> Option<u64> {
        let start = Instant::now();
        let left = RefCell::new(renewals.iter().copied());
        let renew = || {
            let renewal = left.borrow_mut().next().unwrap_or(Held);
            async move {
                let failed = || StoreError::Corrupt { table: "control", source: "a fault".into() };
                match renewal {
                    Held => Ok(true),
                    Lost => Ok(false),
                    Failed => Err(failed()),
                    Slow(seconds) => {
                        time::sleep(Duration::from_secs(seconds)).await;
                        Err(failed())
                    }
                }
            }
        };
        let kept = time::timeout(Duration::from_mins(10), keep("coinbase", renew, |_| ())).await;
        kept.is_ok().then(|| start.elapsed().as_secs())
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_kept_until_another_poller_has_it() {
        let cases = [
            ("renewed", vec![], None),
            ("failures in between", vec![Failed, Failed, Held, Failed, Failed, Held], None),
            ("a slow database", vec![Held, Slow(60)], None),
            ("no response for longer than the term", vec![Failed; 9], None),
            ("taken over", vec![Lost], Some(3)),
            ("taken over later", vec![Held, Failed, Lost], Some(6)),
            ("taken over during an outage", [vec![Failed; 9], vec![Lost]].concat(), Some(7)),
        ];
        for (name, renewals, expected) in cases {
            assert_eq!(lost_after(&renewals).await, expected, "case: {name}");
        }
    }
}
