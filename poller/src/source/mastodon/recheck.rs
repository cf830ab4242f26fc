//! Decides which posts to check, and when, on a server that reports no deletes.
//!
//! Most deletes and edits happen soon, so an older post is checked less often.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::api::BATCH;

/// Waits before the checks of a post. After the last check, it is not checked again.
const WAITS: [Duration; 6] = [
    Duration::from_mins(1),
    Duration::from_mins(4),
    Duration::from_mins(15),
    Duration::from_mins(40),
    Duration::from_hours(2),
    Duration::from_hours(3),
];
/// Wait before a check that failed is repeated.
const RETRY: Duration = Duration::from_mins(1);
/// Most posts that are pending. Beyond it, those that are due first are dropped.
const CAPACITY: usize = 20_000;

/// A post that is to be checked.
#[derive(Debug)]
pub(super) struct Due {
    pub(super) id: String,
    stage: usize,
    retry_at: Timestamp,
}

/// The posts that will be checked.
#[derive(Debug, Default)]
pub(super) struct Recheck {
    due: BTreeMap<(Timestamp, String), usize>,
}

impl Recheck {
    /// Adds a post.
    pub(super) fn add(&mut self, id: String, now: Timestamp) {
        self.insert(id, 0, now);
    }

    /// Returns whether no post will be checked.
    pub(super) fn is_empty(&self) -> bool {
        self.due.is_empty()
    }

    /// Returns the posts that are due, at most as many as fit into one request. They are checked again
    /// soon, unless [`Self::checked`] reports a result.
    pub(super) fn take(&mut self, now: Timestamp, is_held: impl Fn(&str) -> bool) -> Vec<Due> {
        let mut posts = Vec::new();
        while posts.len() < BATCH
            && let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let ((_, id), stage) = entry.remove_entry();
            if is_held(&id) {
                let at = now + RETRY;
                self.due.insert((at, id.clone()), stage);
                posts.push(Due { id, stage, retry_at: at });
            }
        }
        posts
    }

    /// Schedules the next checks of posts that were checked.
    pub(super) fn checked(&mut self, posts: impl IntoIterator<Item = Due>, now: Timestamp) {
        for Due { id, stage, retry_at } in posts {
            if self.due.remove(&(retry_at, id.clone())).is_some() {
                self.insert(id, stage + 1, now);
            }
        }
    }

    fn insert(&mut self, id: String, stage: usize, now: Timestamp) {
        let Some(wait) = WAITS.get(stage) else { return };
        self.due.insert((now + *wait, id), stage);
        if self.due.len() > CAPACITY {
            self.due.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the posts that are due. Returns how many there were.
    fn check(recheck: &mut Recheck, now: Timestamp) -> usize {
        let due = recheck.take(now, |_| true);
        let count = due.len();
        recheck.checked(due, now);
        count
    }

    #[test]
    fn a_post_is_checked_less_and_less_often() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let mut recheck = Recheck::default();
        recheck.add("1".into(), start);
        let looks: Vec<i32> = (0..24 * 60)
            .filter(|minute| {
                let now = start + Duration::from_mins(u64::try_from(*minute).expect("positive"));
                check(&mut recheck, now) > 0
            })
            .collect();
        assert_eq!(looks, [1, 5, 20, 60, 180, 360]);
    }

    #[test]
    fn a_check_that_fails_is_repeated() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let minute = |count| start + Duration::from_mins(count);
        let mut recheck = Recheck::default();
        recheck.add("1".into(), start);
        assert_eq!(recheck.take(minute(1), |_| true).len(), 1);
        assert_eq!(recheck.take(minute(1), |_| true).len(), 0);
        assert_eq!(check(&mut recheck, minute(2)), 1, "the first check has failed");
        assert_eq!(check(&mut recheck, minute(5)), 0);
        assert_eq!(check(&mut recheck, minute(6)), 1);
    }

    #[test]
    fn a_check_has_no_more_posts_than_a_request_can_have() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let mut recheck = Recheck::default();
        for id in 0..50 {
            recheck.add(id.to_string(), start);
        }
        let later = start + Duration::from_mins(1);
        assert_eq!(check(&mut recheck, start), 0);
        assert_eq!(check(&mut recheck, later), 20);
        assert_eq!(recheck.take(later, |_| false).len(), 0, "deleted posts are not checked");
        assert_eq!(check(&mut recheck, later), 0);
        for id in 0..2 * CAPACITY {
            recheck.add(id.to_string(), start);
        }
        assert_eq!(recheck.due.len(), CAPACITY);
    }
}
