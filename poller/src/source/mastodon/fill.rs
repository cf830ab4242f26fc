//! Fetches the updates of a server that were missed between two sessions.
//!
//! The REST interface does not report edits and deletes, so posts that were published shortly before
//! the gap are requested again. Those that no longer exist count as deleted.

use std::time::Duration;

use domain::chain::Chain;
use jiff::Timestamp;
use tracing::warn;

use super::{
    api::{Api, ApiError, BATCH, PAGE, Page},
    instance::Part,
    session::Gap,
    snowflake,
    status::{Status, Update},
};

/// Most pages that are fetched. A large server fills them in half an hour.
const MAX_PAGES: usize = 50;
/// How far back a gap is filled.
const REACH: Duration = Duration::from_hours(1);
/// Posts reach a server some time after they were written, so filling starts this long before the gap. The first
/// session starts this long ago at least, because an earlier process may have read the server and published nothing.
const OVERLAP: (Duration, Duration) = (Duration::from_mins(2), Duration::from_mins(10));
/// Most statuses that are requested one by one, if a server does not support requests for several.
const MAX_SINGLE: usize = 5;

/// First and longest wait before a gap is filled again, because a request failed.
pub(super) const REFILL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(1));

/// The updates of a gap.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// The updates, oldest first.
    pub(super) updates: Vec<Update>,
    /// Why updates may be missing. Empty if all were fetched.
    pub(super) missing: &'static str,
    /// Whether a request failed that may succeed later.
    pub(super) is_to_be_repeated: bool,
}

impl Filled {
    /// Notes that a request failed.
    fn fail(&mut self, error: &ApiError, missing: &'static str) {
        self.missing = missing;
        self.is_to_be_repeated |= error.permanent_reason().is_none();
    }
}

/// Fetches the updates of a gap. `newest` is the newest page of the timeline, if it was just read.
pub(super) async fn run(api: &Api, part: Part, gap: &Gap, newest: Option<Page>) -> Filled {
    let now = api.outside().clock.now();
    let mut filled = Filled::default();
    for ids in gap.check.chunks(BATCH) {
        match check(api, ids).await {
            Ok(updates) => filled.updates.extend(updates),
            Err(error) => {
                warn!(error = %Chain(&error), "could not check the posts before a gap");
                filled.fail(&error, "deletes and edits during a gap could not be checked");
            }
        }
    }
    if let Err(error) = posts(api, part, gap, newest, now, &mut filled).await {
        warn!(error = %Chain(&error), "could not fetch the posts of a gap");
        filled.fail(&error, "posts of a gap could not be fetched");
    }
    filled
}

async fn posts(
    api: &Api,
    part: Part,
    gap: &Gap,
    newest: Option<Page>,
    now: Timestamp,
    filled: &mut Filled,
) -> Result<(), ApiError> {
    let newest = match newest {
        Some(newest) => newest,
        None => api.page(part, None).await?,
    };
    let Some(head) = newest.statuses.first() else { return Ok(()) };
    let since = gap.since.as_ref();
    let reaches = |start| {
        let last = newest.statuses.last();
        newest.len < PAGE / 2 || last.is_some_and(|last| last.created_at() <= Some(start))
    };
    let start = match since {
        Some(position) => start(position.at, now),
        None if reaches(now - OVERLAP.0) => now - REACH,
        None => now - OVERLAP.0,
    };
    if since.is_some_and(|position| position.at < now - REACH) {
        filled.missing = "a gap started too long ago to be filled completely";
    }
    let after = match since {
        _ if reaches(start) => None,
        _ if is_snowflake(head, now) => Some(snowflake::id(start)),
        None => None,
        Some(position) => {
            if position.id.is_none() {
                filled.missing = "a gap cannot be filled: the server's ids contain no time";
            }
            position.id.clone()
        }
    };
    let Some(after) = after else {
        let recent = newest.statuses.into_iter().rev();
        filled.updates.extend(recent.filter(|s| s.created_at() >= Some(start)).map(Update::Post));
        return Ok(());
    };
    let mut page = api.page(part, Some(&after)).await?;
    for _ in 1..MAX_PAGES {
        let Some(id) = page.statuses.first().map(|status| status.id().into_owned()) else {
            return Ok(());
        };
        let len = page.len;
        let newer = page.newer.take();
        filled.updates.extend(page.statuses.into_iter().rev().map(Update::Post));
        // Servers limit a page before they filter it, so a full page can be a little shorter.
        if len < PAGE / 2 {
            return Ok(());
        }
        tokio::time::sleep(api.pause()).await;
        page = match newer {
            Some(url) => api.page_at(url).await?,
            None => api.page(part, Some(&id)).await?,
        };
    }
    filled.updates.extend(page.statuses.into_iter().rev().map(Update::Post));
    filled.missing = "a gap had too many posts to fetch them all";
    Ok(())
}

/// Requests statuses again. Returns them as edits, and a delete for each that is gone.
pub(super) async fn check(api: &Api, ids: &[String]) -> Result<Vec<Update>, ApiError> {
    let found = match api.statuses(ids).await {
        // Mastodon before 4.3 and other software do not support this request.
        Err(ApiError::Status(status))
            if status.is_client_error() && ![401, 403].contains(&status.as_u16()) =>
        {
            return singly(api, ids).await;
        }
        found => found?,
    };
    // An empty response usually means that the server ignores the ids.
    if found.is_empty()
        && let Some(first) = ids.first()
        && api.status(first).await?.is_some()
    {
        return singly(api, ids).await;
    }
    let gone: Vec<Update> = ids
        .iter()
        .filter(|id| found.iter().all(|status| status.id() != id.as_str()))
        .cloned()
        .map(Update::Delete)
        .collect();
    Ok(found.into_iter().map(Update::Edit).chain(gone).collect())
}

async fn singly(api: &Api, ids: &[String]) -> Result<Vec<Update>, ApiError> {
    let mut updates = Vec::new();
    for id in ids.iter().take(MAX_SINGLE) {
        updates
            .push(api.status(id).await?.map_or_else(|| Update::Delete(id.clone()), Update::Edit));
    }
    Ok(updates)
}

/// Returns the time from which to fetch, for a gap that started at `since`.
fn start(since: Timestamp, now: Timestamp) -> Timestamp {
    let length = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (since - length.clamp(OVERLAP.0, OVERLAP.1)).max(now - REACH)
}

/// Returns whether a server's ids contain the time at which a status was written.
fn is_snowflake(status: &Status, now: Timestamp) -> bool {
    let (Some(by_id), Some(at)) = (snowflake::time(&status.id(), now), status.created_at()) else {
        return false;
    };
    by_id.duration_since(at).abs() < jiff::SignedDuration::from_hours(24)
}

#[cfg(test)]
mod tests;
