//! Leases: one poller is the leader of a family of sources, and a standby takes over when its lease
//! expires.

use std::{sync::Arc, time::Duration};

use aws::{control::Control, error::StoreError};
use domain::chain::Chain;
use jiff::Timestamp;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{leadership::TERM, numbering::Numbering};

/// How often a lease is renewed, and how often a standby tries to acquire it.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// Runs `lead` whenever this poller, called `owner`, holds the lease of `family`, until `shutdown`.
/// `lead` gets a token that is canceled when the lease is lost.
pub async fn hold<F, Fut>(
    control: Control,
    numbering: Numbering,
    family: &str,
    owner: Arc<str>,
    shutdown: CancellationToken,
    lead: F,
) where
    F: Fn(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let mut is_standby = false;
    while !shutdown.is_cancelled() {
        let requested_at = Instant::now();
        match control.acquire(family, &owner, TERM, Timestamp::now()).await {
            Ok(Some(lease)) => {
                info!(family, epoch = lease.epoch, "acquired the lease; this poller is the leader");
                is_standby = false;
                numbering.lead(lease.clone(), requested_at);
                let term = shutdown.child_token();
                let renew = || control.renew(&lease, TERM, Timestamp::now());
                tokio::select! {
                    () = lead(term.clone()) => {}
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
            }
        }
        shutdown.run_until_cancelled(time::sleep(RENEW_EVERY)).await;
    }
}

/// Renews a lease until it is lost.
async fn keep<F, Fut>(family: &str, renew: F, renewed: impl Fn(Instant))
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<bool, StoreError>>,
{
    let mut renewed_at = Instant::now();
    loop {
        time::sleep(RENEW_EVERY).await;
        let attempt = Instant::now();
        match renew().await {
            Ok(true) => {
                renewed_at = attempt;
                renewed(attempt);
            }
            Ok(false) => return,
            Err(error) => {
                warn!(family, error = %Chain(&error), "could not renew the lease; retrying");
            }
        }
        // When the term is over, a standby takes over, even if the database did not report that.
        if renewed_at.elapsed() >= TERM {
            return;
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
    async fn a_lease_is_kept_while_it_is_renewed_within_its_term() {
        assert_eq!(lost_after(&[]).await, None);
        assert_eq!(lost_after(&[Failed, Failed, Held, Failed, Failed, Held]).await, None);
        assert_eq!(lost_after(&[Slow(6)]).await, None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_lost_when_another_poller_has_it_or_its_term_is_over() {
        let cases = [
            ("taken over", vec![Lost], 3),
            ("taken over later", vec![Held, Failed, Lost], 9),
            ("no answer from the start", vec![Failed; 9], 12),
            ("no answer after a renewal", [vec![Held], vec![Failed; 9]].concat(), 15),
            ("a slow database", vec![Held, Slow(8)], 14),
        ];
        for (name, renewals, expected) in cases {
            assert_eq!(lost_after(&renewals).await, Some(expected), "case: {name}");
        }
    }
}
