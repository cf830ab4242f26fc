//! The share of a poller: the posts of the account are divided among the pollers that lead, in proportion to
//! the sources that each leads.

use std::{sync::Arc, time::Duration};

use aws::control::Control;
use domain::{chain::Chain, clock::Clock};
use tokio::time::{self, MissedTickBehavior};
use tracing::debug;

use crate::{lanes::Lanes, leadership::Leadership};

/// How often the leaders are read.
const EVERY: Duration = Duration::from_secs(3);

/// Keeps the share of the poller called `owner` up to date.
pub(crate) async fn keep(
    control: Control,
    leadership: Leadership,
    lanes: Lanes,
    owner: Arc<str>,
    clock: Clock,
) {
    let mut changes = leadership.changes();
    let mut timer = time::interval(EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = changes.changed() => {}
        }
        // A standby has nothing to post.
        if leadership.all().is_empty() {
            continue;
        }
        match control.leaders(clock.now()).await {
            Ok(leaders) => {
                let own = leaders.values().filter(|leader| ***leader == *owner).count();
                // The database can know already that another poller has taken over.
                if own > 0 {
                    lanes.share(own, leaders.len());
                }
            }
            Err(error) => {
                debug!(error = %Chain(&error), "could not read the leaders; keeping the share");
            }
        }
    }
}
