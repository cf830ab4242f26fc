//! Fetches what a server told while it was not listened to.
//!
//! The REST interface knows no edits and deletes, so what was published shortly before the gap is
//! asked for again, and what is no longer there is taken as deleted.

use std::time::Duration;

use aws::error::Chain;
use jiff::Timestamp;
use tracing::warn;

use super::{
    api::{Api, ApiError, BATCH, PAGE},
    instance::Part,
    session::Gap,
    snowflake,
    status::{Status, Told},
};

/// Most pages that are fetched: half an hour of a large server.
const MAX_PAGES: usize = 50;
/// How far back a gap is filled at most.
const REACH: Duration = Duration::from_hours(1);
/// Posts reach a server later than they were written, so the fill begins this much before the gap.
const OVERLAP: (Duration, Duration) = (Duration::from_mins(2), Duration::from_mins(10));
/// Statuses that are asked for one by one, where a server cannot be asked for several.
const MAX_SINGLE: usize = 5;

/// What happened while nobody listened.
#[derive(Debug, Default)]
pub(super) struct Filled {
    /// What the server has, oldest first.
    pub(super) told: Vec<Told>,
    /// Why something may be missing; empty where nothing is.
    pub(super) missing: &'static str,
}

/// Fetches what a server told in a gap.
pub(super) async fn run(api: &Api, part: Part, gap: &Gap, now: Timestamp) -> Filled {
    let mut filled = Filled::default();
    for ids in gap.check.chunks(BATCH) {
        match check(api, ids).await {
            Ok(told) => filled.told.extend(told),
            Err(_) => filled.missing = "deletes and edits of a gap could not be asked for",
        }
    }
    if let Err(error) = posts(api, part, gap, now, &mut filled).await {
        warn!(error = %Chain(&error), "gap not filled");
        filled.missing = "posts of a gap could not be fetched";
    }
    filled
}

async fn posts(
    api: &Api,
    part: Part,
    gap: &Gap,
    now: Timestamp,
    filled: &mut Filled,
) -> Result<(), ApiError> {
    let newest = api.page(part, None).await?;
    let Some(head) = newest.statuses.first() else { return Ok(()) };
    let since = gap.since.as_ref();
    let start = since.map_or(now - REACH, |cursor| start(cursor.at, now));
    if since.is_some_and(|cursor| cursor.at < now - REACH) {
        filled.missing = "a gap is too long ago to be filled whole";
    }
    let reaches = newest.len < PAGE / 2
        || newest.statuses.last().is_some_and(|last| last.created_at() <= Some(start));
    let after = match since {
        // Nothing was known, so nothing is missing: the newest page is a beginning.
        None => None,
        Some(_) if reaches => None,
        Some(_) if is_snowflake(head, now) => Some(snowflake::id(start)),
        Some(cursor) => {
            if cursor.id.is_none() {
                filled.missing = "a gap cannot be filled: the server's ids tell no time";
            }
            cursor.id.clone()
        }
    };
    let Some(after) = after else {
        let recent = newest.statuses.into_iter().rev();
        filled.told.extend(recent.filter(|s| s.created_at() >= Some(start)).map(Told::Post));
        return Ok(());
    };
    let mut page = api.page(part, Some(&after)).await?;
    for _ in 1..MAX_PAGES {
        let Some(id) = page.statuses.first().map(|status| status.id().into_owned()) else {
            return Ok(());
        };
        let (len, newer) = (page.len, page.newer.take());
        filled.told.extend(page.statuses.into_iter().rev().map(Told::Post));
        // Servers filter a page after they have cut it, so a full one can be a little short.
        if len < PAGE / 2 {
            return Ok(());
        }
        tokio::time::sleep(api.pause(Timestamp::now())).await;
        page = match newer {
            Some(url) => api.page_at(url).await?,
            None => api.page(part, Some(&id)).await?,
        };
    }
    filled.told.extend(page.statuses.into_iter().rev().map(Told::Post));
    filled.missing = "a gap had too many posts to fetch them all";
    Ok(())
}

/// Asks for statuses again: returns them as edits, and deletes for those that are gone.
pub(super) async fn check(api: &Api, ids: &[String]) -> Result<Vec<Told>, ApiError> {
    let found = match api.statuses(ids).await {
        // Before Mastodon 4.3, and elsewhere, there is no such request.
        Err(ApiError::Status(status))
            if status.is_client_error() && ![401, 403].contains(&status.as_u16()) =>
        {
            return singly(api, ids).await;
        }
        found => found?,
    };
    // All gone at once is more often a server that does not answer this.
    if found.is_empty()
        && let Some(first) = ids.first()
        && api.status(first).await?.is_some()
    {
        return singly(api, ids).await;
    }
    let gone = ids.iter().filter(|id| found.iter().all(|status| status.id() != id.as_str()));
    let gone: Vec<Told> = gone.cloned().map(Told::Delete).collect();
    Ok(found.into_iter().map(Told::Edit).chain(gone).collect())
}

async fn singly(api: &Api, ids: &[String]) -> Result<Vec<Told>, ApiError> {
    let mut told = Vec::new();
    for id in ids.iter().take(MAX_SINGLE) {
        told.push(api.status(id).await?.map_or_else(|| Told::Delete(id.clone()), Told::Edit));
    }
    Ok(told)
}

/// Where to begin to fetch, for a gap that began `since`.
fn start(since: Timestamp, now: Timestamp) -> Timestamp {
    let length = Duration::try_from(now.duration_since(since)).unwrap_or_default();
    (since - length.clamp(OVERLAP.0, OVERLAP.1)).max(now - REACH)
}

/// Whether a server's ids hold the time at which a status was written.
fn is_snowflake(status: &Status, now: Timestamp) -> bool {
    let (Some(by_id), Some(at)) = (snowflake::time(&status.id(), now), status.created_at()) else {
        return false;
    };
    by_id.duration_since(at).abs() < jiff::SignedDuration::from_hours(24)
}

#[cfg(test)]
mod tests;
