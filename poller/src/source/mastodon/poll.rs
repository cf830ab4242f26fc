//! A session over the REST interface: polls the public timeline.
//!
//! This needs no token if a server shows its timeline to everyone. A timeline does not report edits
//! and deletes, so the posts of the last hours are requested again, which finds them within minutes.

use domain::{backoff::Backoff, source::State};
use std::{collections::BTreeSet, time::Duration};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    api::{Api, PAGE, Page},
    fill::{self, Filled, REFILL},
    instance::Part,
    recheck::Recheck,
    session::{Gap, Out, SessionEnd, SessionEvent},
    status::{Status, Update},
};

/// Shortest and longest wait between two requests for the timeline.
const INTERVAL: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(30));
/// First such wait.
const FIRST_INTERVAL: Duration = Duration::from_secs(5);
/// Shortest time between two requests that check posts. This is half the rate that servers allow
/// without a token.
const CHECK: Duration = Duration::from_secs(8);
/// Number of posts that are requested twice, because posts can arrive late, below newer ones.
const OVERLAP: usize = PAGE / 2;

/// Polls until the session ends. `is_held` returns whether a status is published. The posts that are
/// checked outlive the session.
pub(super) async fn session(
    api: &Api,
    part: Part,
    gap: &Gap,
    out: &mut Out,
    shutdown: &CancellationToken,
    recheck: &Mutex<Recheck>,
    is_held: impl Fn(&str) -> bool,
) -> SessionEnd {
    match shutdown.run_until_cancelled(poll(api, part, gap, out, recheck, is_held)).await {
        None => SessionEnd::Stopped,
        Some(Ok(never)) => match never {},
        Some(Err(ended)) => ended,
    }
}

async fn poll(
    api: &Api,
    part: Part,
    gap: &Gap,
    out: &mut Out,
    recheck: &Mutex<Recheck>,
    is_held: impl Fn(&str) -> bool,
) -> Result<std::convert::Infallible, SessionEnd> {
    // An error of this request ends the session. An error while the gap is filled does not.
    let mut newest = Newest::default();
    let page = api.page(part, None).await?;
    newest.note(&page);
    let mut filled = fill::run(api, part, gap, Some(page)).await;
    let mut refill = Backoff::new(REFILL.0, REFILL.1);
    let mut next_fill = Instant::now() + refill.next_delay();
    out.send(state(part, &filled)).await?;
    // The times of checks come from the same clock as the waits.
    let wall = api.outside().clock.now();
    let clock = Instant::now();
    let now = || wall + clock.elapsed();
    for update in std::mem::take(&mut filled.updates) {
        pass(update, out, recheck, now()).await?;
    }

    if recheck.lock().is_empty() {
        // Another process has published these.
        for id in &gap.check {
            recheck.lock().add(id.clone(), now());
        }
    }

    let mut interval = FIRST_INTERVAL;
    let mut next_check = Instant::now() + CHECK;
    loop {
        let page = api.page(part, newest.min_id()).await?;
        let len = page.len;
        let statuses = newest.add(page);
        let fresh = statuses.len();
        for status in statuses {
            pass(Update::Post(status), out, recheck, now()).await?;
        }
        if filled.is_to_be_repeated && next_fill <= Instant::now() {
            filled = fill::run(api, part, gap, None).await;
            next_fill = Instant::now() + refill.next_delay();
            out.send(state(part, &filled)).await?;
            for update in std::mem::take(&mut filled.updates) {
                pass(update, out, recheck, now()).await?;
            }
        }
        if next_check <= Instant::now() {
            next_check = Instant::now() + CHECK;
            let due = recheck.lock().take(now(), &is_held);
            if !due.is_empty() {
                let ids: Vec<String> = due.iter().map(|post| post.id.clone()).collect();
                let updates = fill::check(api, &ids).await?;
                let checked: BTreeSet<String> = updates.iter().map(Update::id).collect();
                for update in updates {
                    out.forward(update).await?;
                }
                let due = due.into_iter().filter(|post| checked.contains(&post.id));
                recheck.lock().checked(due, now());
            }
        }
        // A full page means that there is more.
        if len < PAGE || fresh == 0 {
            interval = next_interval(interval, fresh);
            time::sleep(interval.max(api.pause())).await;
        } else {
            time::sleep(api.pause()).await;
        }
    }
}

/// Returns the state of a source that is polled.
fn state(part: Part, filled: &Filled) -> SessionEvent {
    let detail = match (part, filled.missing) {
        (Part::Whole, "") => "polled",
        (Part::Local, "") => "polled, local posts only",
        (Part::Remote, "") => "polled, without its local posts",
        (_, missing) => missing,
    };
    SessionEvent::State(State::Live, detail.to_owned())
}

async fn pass(
    update: Update,
    out: &mut Out,
    recheck: &Mutex<Recheck>,
    now: Timestamp,
) -> Result<(), SessionEnd> {
    if let Update::Post(status) = &update {
        recheck.lock().add(status.id().into_owned(), now);
    }
    out.forward(update).await
}

/// Polls a busy server more often than a quiet one.
fn next_interval(interval: Duration, fresh: usize) -> Duration {
    let interval = match fresh {
        0 => interval.mul_f64(1.5),
        1..OVERLAP => interval,
        _ => interval / 2,
    };
    interval.clamp(INTERVAL.0, INTERVAL.1)
}

/// The newest ids of a timeline, in order. Ids are numbers as text, so a longer one is newer.
#[derive(Debug, Default)]
struct Newest(BTreeSet<(usize, String)>);

impl Newest {
    /// Adds the ids of a page. Returns the statuses that were not seen before, oldest first.
    fn add(&mut self, page: Page) -> Vec<Status> {
        let fresh: Vec<Status> =
            page.statuses.into_iter().rev().filter(|status| self.insert(status)).collect();
        self.trim();
        fresh
    }

    /// Adds the ids of a page whose statuses are handled elsewhere.
    fn note(&mut self, page: &Page) {
        for status in &page.statuses {
            self.insert(status);
        }
        self.trim();
    }

    fn insert(&mut self, status: &Status) -> bool {
        let id = status.id().into_owned();
        self.0.insert((id.len(), id))
    }

    fn trim(&mut self) {
        while self.0.len() > OVERLAP {
            self.0.pop_first();
        }
    }

    /// Returns the id after which to continue.
    fn min_id(&self) -> Option<&str> {
        self.0.first().map(|(_, id)| id.as_str())
    }
}

#[cfg(test)]
mod tests;
