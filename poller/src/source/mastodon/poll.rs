//! A session over the REST interface: asks for the public timeline again and again.
//!
//! This needs no token where a server shows its timeline to everybody. It tells of no edits and
//! deletes, so posts of the last hours are asked for again, which finds them within minutes.

use std::{collections::BTreeSet, time::Duration};

use aws::control::State;
use jiff::Timestamp;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, PAGE, Page},
    fill,
    instance::Part,
    recheck::Recheck,
    session::{Ended, Gap, Out, Said},
    status::{Status, Told},
};

/// Shortest and longest wait between two requests for the timeline.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// Wait at first.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// Least time between two requests for posts again: half of what servers allow a stranger.
const CHECK: Duration = Duration::from_secs(8);
/// Posts come late and so below newer ones: so many are asked for once more.
const OVERLAP: usize = PAGE / 2;

/// Asks until something ends it. `is_held` says whether a status is published.
pub(super) async fn session(
    api: &Api,
    part: Part,
    gap: &Gap,
    out: &mut Out,
    shutdown: &CancellationToken,
    is_held: impl Fn(&str) -> bool,
) -> Ended {
    match shutdown.run_until_cancelled(ask(api, part, gap, out, is_held)).await {
        None => Ended::Stopped,
        Some(Ok(never)) => match never {},
        Some(Err(ended)) => ended,
    }
}

async fn ask(
    api: &Api,
    part: Part,
    gap: &Gap,
    out: &mut Out,
    is_held: impl Fn(&str) -> bool,
) -> Result<std::convert::Infallible, Ended> {
    // A refusal shows here, where a gap that cannot be filled would not.
    let mut newest = Newest::default();
    newest.add(api.page(part, None).await?);
    let filled = fill::run(api, part, gap, Timestamp::now()).await;
    let detail = match (part, filled.missing) {
        (Part::Whole, "") => "polled",
        (Part::Local, "") => "polled, local posts only",
        (Part::Remote, "") => "polled, without its local posts",
        (_, missing) => missing,
    };
    out.say(Said::State(State::Live, detail.to_owned())).await?;
    // Looks are due by the clock that waits are measured by.
    let (wall, clock) = (Timestamp::now(), Instant::now());
    let now = || wall + clock.elapsed();
    let mut recheck = Recheck::default();
    for told in filled.told {
        pass(told, out, &mut recheck, now()).await?;
    }

    let mut interval = FIRST_INTERVAL;
    let mut next_check = Instant::now() + CHECK;
    loop {
        let page = api.page(part, newest.cursor()).await?;
        let len = page.len;
        let statuses = newest.add(page);
        let fresh = statuses.len();
        for status in statuses {
            pass(Told::Post(status), out, &mut recheck, now()).await?;
        }
        if next_check <= Instant::now() {
            next_check = Instant::now() + CHECK;
            let ids = recheck.take(now(), &is_held);
            if !ids.is_empty() {
                for told in fill::check(api, &ids).await? {
                    out.told(told).await?;
                }
            }
        }
        // A full page means that there are more.
        if len < PAGE || fresh == 0 {
            interval = next_interval(interval, fresh);
            time::sleep(interval.max(api.pause(Timestamp::now()))).await;
        } else {
            time::sleep(api.pause(Timestamp::now())).await;
        }
    }
}

async fn pass(
    told: Told,
    out: &mut Out,
    recheck: &mut Recheck,
    now: Timestamp,
) -> Result<(), Ended> {
    if let Told::Post(status) = &told {
        recheck.add(status.id().into_owned(), now);
    }
    out.told(told).await
}

/// Asks a busy server more often than a quiet one.
fn next_interval(interval: Duration, fresh: usize) -> Duration {
    let interval = match fresh {
        0 => interval.mul_f64(1.5),
        1..OVERLAP => interval,
        _ => interval / 2,
    };
    interval.clamp(INTERVAL.0, INTERVAL.1)
}

/// The newest ids of a timeline, in the order of ids: a longer one is newer, and numbers are texts.
#[derive(Debug, Default)]
struct Newest(BTreeSet<(usize, String)>);

impl Newest {
    /// Adds the ids of a page, and returns its statuses that were not seen before, oldest first.
    fn add(&mut self, page: Page) -> Vec<Status> {
        let mut is_fresh = |status: &Status| {
            let id = status.id().into_owned();
            self.0.insert((id.len(), id))
        };
        let fresh: Vec<Status> =
            page.statuses.into_iter().rev().filter(|status| is_fresh(status)).collect();
        while self.0.len() > OVERLAP {
            self.0.pop_first();
        }
        fresh
    }

    /// The id after which to ask.
    fn cursor(&self) -> Option<&str> {
        self.0.first().map(|(_, id)| id.as_str())
    }
}

#[cfg(test)]
mod tests;
