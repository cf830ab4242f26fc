//! Leases: of all pollers, one reads a family of sources, and another takes over when it is gone.

use std::{sync::Arc, time::Duration};

use aws::{control::Lease, error::Chain};
use jiff::Timestamp;
use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::numbering::Numbering;

/// How long a lease lasts without being renewed.
pub const TERM: Duration = Duration::from_secs(10);

/// How often a lease is renewed, and how often a standby tries to get it.
const EVERY: Duration = Duration::from_secs(3);

/// Has `lead` run whenever this poller, called `owner`, has the lease of `family`, until
/// `shutdown`. What it is given is cancelled when the lease is lost.
pub async fn hold<F, Fut>(
    numbering: Numbering,
    family: &str,
    owner: Arc<str>,
    shutdown: CancellationToken,
    lead: F,
) where
    F: Fn(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let control = numbering.tables().control.clone();
    let mut standby = false;
    while !shutdown.is_cancelled() {
        match control.acquire(family, &owner, TERM, Timestamp::now()).await {
            Ok(Some(lease)) => {
                info!(family, epoch = lease.epoch, "leading");
                standby = false;
                numbering.lead(lease.clone());
                let term = shutdown.child_token();
                tokio::select! {
                    () = lead(term.clone()) => {}
                    () = keep(&numbering, &lease, &term) => {
                        warn!(family, epoch = lease.epoch, "lease lost");
                    }
                }
                if shutdown.is_cancelled() {
                    // What was read last is still on its way to the log: whoever has the lease to
                    // release is asked by `release` once that is there.
                    return;
                }
                numbering.follow(family);
            }
            Ok(None) => {
                if !standby {
                    info!(family, "standing by");
                }
                standby = true;
            }
            Err(error) => warn!(family, error = %Chain(&error), "no lease"),
        }
        shutdown.run_until_cancelled(time::sleep(EVERY)).await;
    }
}

/// Renews a lease until it is lost.
async fn keep(numbering: &Numbering, lease: &Lease, term: &CancellationToken) {
    let mut renewed = time::Instant::now();
    loop {
        time::sleep(EVERY).await;
        let attempt = time::Instant::now();
        match numbering.tables().control.renew(lease, TERM, Timestamp::now()).await {
            Ok(true) => renewed = attempt,
            Ok(false) => break,
            Err(error) => warn!(error = %Chain(&error), "lease not renewed"),
        }
        // Another poller takes over when the term is up, whether or not the database told us.
        if renewed.elapsed() >= TERM {
            break;
        }
    }
    term.cancel();
}
