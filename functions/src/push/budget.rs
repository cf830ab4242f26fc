//! What a job may use: a number of posts, and time.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::{self, Instant};

/// How long before its end a job stops posting, so that the report still arrives in time.
const MARGIN: Duration = Duration::from_millis(500);

/// The posts and the time that are left for a job.
#[derive(Debug)]
pub(super) struct Budget {
    posts: AtomicU64,
    used: AtomicU64,
    deadline: Instant,
}

impl Budget {
    /// Makes the budget of a job that begins now.
    pub(super) fn new(posts: u64, time: Duration) -> Self {
        let deadline = Instant::now() + time.saturating_sub(MARGIN);
        Self { posts: AtomicU64::new(posts), used: AtomicU64::new(0), deadline }
    }

    /// Takes up to `wanted` posts, and returns how many there are. There are none after the deadline.
    pub(super) fn take(&self, wanted: usize) -> usize {
        if Instant::now() >= self.deadline {
            return 0;
        }
        let wanted = wanted as u64;
        let before = self
            .posts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| {
                Some(left.saturating_sub(wanted))
            })
            .unwrap_or_default();
        let taken = before.min(wanted);
        self.used.fetch_add(taken, Ordering::Relaxed);
        usize::try_from(taken).unwrap_or(usize::MAX)
    }

    /// Returns how long the job can still post.
    pub(super) fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Returns how many posts were taken.
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Waits for `work` until the deadline. Returns `None` if it has not ended then.
    pub(super) async fn run<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        time::timeout_at(self.deadline, work).await.ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_budget_gives_what_is_left_until_its_deadline() {
        let budget = Budget::new(10, Duration::from_secs(5));
        assert_eq!([budget.take(4), budget.take(4), budget.take(4), budget.take(1)], [4, 4, 2, 0]);
        assert_eq!(budget.used(), 10);
        let budget = Budget::new(10, Duration::from_secs(5));
        assert_eq!(budget.run(time::sleep(Duration::from_secs(4))).await, Some(()));
        assert_eq!(budget.take(1), 1);
        assert_eq!(budget.run(time::sleep(Duration::from_secs(4))).await, None);
        assert_eq!(budget.take(1), 0, "the report needs the rest of the time");
    }
}
