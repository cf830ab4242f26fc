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
/// Most posts that are pending. Beyond it, those that are due first are dropped.
const CAPACITY: usize = 20_000;

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

    /// Returns the posts that are due, at most as many as fit into one request. Schedules their next
    /// checks.
    pub(super) fn take(&mut self, now: Timestamp, is_held: impl Fn(&str) -> bool) -> Vec<String> {
        let mut ids = Vec::new();
        while ids.len() < BATCH
            && let Some(entry) = self.due.first_entry()
            && entry.key().0 <= now
        {
            let ((_, id), stage) = entry.remove_entry();
            if is_held(&id) {
                ids.push(id.clone());
                self.insert(id, stage + 1, now);
            }
        }
        ids
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

    #[test]
    fn a_post_is_checked_less_and_less_often() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let mut recheck = Recheck::default();
        recheck.add("1".into(), start);
        let looks: Vec<i32> = (0..24 * 60)
            .filter(|minute| {
                let now = start + Duration::from_mins(u64::try_from(*minute).expect("positive"));
                !recheck.take(now, |_| true).is_empty()
            })
            .collect();
        assert_eq!(looks, [1, 5, 20, 60, 180, 360]);
    }

    #[test]
    fn a_check_has_no_more_posts_than_a_request_can_have() {
        let start: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let mut recheck = Recheck::default();
        for id in 0..50 {
            recheck.add(id.to_string(), start);
        }
        let later = start + Duration::from_mins(1);
        assert_eq!(recheck.take(start, |_| true), [""; 0]);
        assert_eq!(recheck.take(later, |_| true).len(), 20);
        assert_eq!(recheck.take(later, |_| false), [""; 0], "deleted posts are not checked");
        assert_eq!(recheck.take(later, |_| true), [""; 0]);
        for id in 0..2 * CAPACITY {
            recheck.add(id.to_string(), start);
        }
        assert_eq!(recheck.due.len(), CAPACITY);
    }
}
