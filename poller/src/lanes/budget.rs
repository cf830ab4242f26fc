//! The budget of posts: how many messages all lanes together may have posted in a second.

use std::time::Duration;

use domain::pace::TokenBucket;
use parking_lot::Mutex;
use tokio::time::{self, Instant};

/// How much of the rate is left after posts were refused because of a quota, in percent.
const SHRINK_TO_PERCENT: u64 = 70;

/// How much of the full rate is added in a second without refusals, in percent.
const GROW_BY_PERCENT: u64 = 5;

/// The rate never falls below this part of the full rate, in percent.
const LEAST_PERCENT: u64 = 2;

/// The share of refused posts above which the rate shrinks, in percent. A few refusals are slow clients.
const REFUSED_PERCENT: u64 = 5;

/// Fewest refused posts for which the rate shrinks.
const REFUSED_LEAST: u64 = 10;

/// The posts that the account allows this poller, divided among the lanes. If gateways refuse posts, the
/// rate shrinks at once, and grows again slowly.
#[derive(Debug)]
pub(super) struct PostBudget {
    /// What the account allows all pollers.
    account_rate: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    bucket: TokenBucket,
    /// What the account allows this poller.
    full_rate: u32,
    rate: u32,
    changed_at: Instant,
}

impl PostBudget {
    /// Makes a budget of all posts of the account, so many a second.
    pub(super) fn new(account_rate: u32) -> Self {
        let (full_rate, rate) = (account_rate, account_rate);
        let bucket = TokenBucket::per_second(rate, rate);
        let state = State { bucket, full_rate, rate, changed_at: Instant::now() };
        Self { account_rate, state: Mutex::new(state) }
    }

    /// Sets this poller's share of the account's posts: `parts` of `all`.
    pub(super) fn share(&self, parts: usize, all: usize) {
        let of = |rate: u32, parts: u64, all: u64| {
            u32::try_from(u64::from(rate) * parts / all.max(1)).unwrap_or(u32::MAX).max(1)
        };
        let full_rate = of(self.account_rate, parts as u64, all as u64);
        let mut state = self.state.lock();
        if state.full_rate != full_rate {
            let rate = of(state.rate, u64::from(full_rate), u64::from(state.full_rate));
            state.full_rate = full_rate;
            state.set_rate(rate.into(), Instant::now());
        }
    }

    /// Waits until up to `wanted` posts are available, and takes them. It gives no more than one
    /// second's worth at a time, and at least one.
    pub(super) async fn take(&self, wanted: u64) -> u64 {
        let (granted, wait) = {
            let mut state = self.state.lock();
            let granted = u32::try_from(wanted).unwrap_or(u32::MAX).clamp(1, state.rate);
            (granted, state.bucket.reserve_many(granted, Instant::now().into_std()))
        };
        if !wait.is_zero() {
            time::sleep(wait).await;
        }
        u64::from(granted)
    }

    /// Returns posts that were taken and not used, and notes how many were refused.
    pub(super) fn settle(&self, taken: u64, used: u64, refused: u64) {
        let mut state = self.state.lock();
        let now = Instant::now();
        let unused = u32::try_from(taken.saturating_sub(used)).unwrap_or(u32::MAX);
        state.bucket.give_back(unused, now.into_std());
        let full = u64::from(state.full_rate);
        if refused >= REFUSED_LEAST && refused * 100 >= used * REFUSED_PERCENT {
            let rate = u64::from(state.rate) * SHRINK_TO_PERCENT / 100;
            state.set_rate(rate.max(full * LEAST_PERCENT / 100), now);
        } else {
            let elapsed = now.duration_since(state.changed_at);
            if elapsed >= Duration::from_secs(1) && state.rate < state.full_rate {
                let growth = full * GROW_BY_PERCENT * elapsed.as_secs() / 100;
                let rate = u64::from(state.rate) + growth.max(1);
                state.set_rate(rate.min(full), now);
            }
        }
    }
}

impl State {
    fn set_rate(&mut self, rate: u64, now: Instant) {
        self.rate = u32::try_from(rate.max(1)).unwrap_or(u32::MAX);
        self.changed_at = now;
        self.bucket.set_per_second(self.rate, self.rate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn seconds_for(budget: &PostBudget, posts: u64) -> f64 {
        let start = Instant::now();
        let mut left = posts;
        while left > 0 {
            let taken = budget.take(left).await;
            budget.settle(taken, taken, 0);
            left -= taken;
        }
        start.elapsed().as_secs_f64()
    }

    #[tokio::test(start_paused = true)]
    async fn posts_are_limited_to_the_rate_and_unused_ones_are_given_back() {
        let budget = PostBudget::new(100);
        let taken = budget.take(100).await;
        budget.settle(taken, 0, 0);
        let seconds = seconds_for(&budget, 300).await;
        assert!((1.9..2.1).contains(&seconds), "{seconds} s: a burst of one second, and two more");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_is_a_part_of_all_posts_and_what_shrank_stays_so() {
        let rates = |budget: &PostBudget| {
            let state = budget.state.lock();
            (state.full_rate, state.rate)
        };
        let budget = PostBudget::new(1_000);
        budget.share(1, 2);
        assert_eq!(rates(&budget), (500, 500));
        budget.settle(100, 100, 50);
        assert_eq!(rates(&budget), (500, 350));
        budget.share(1, 2);
        assert_eq!(rates(&budget), (500, 350), "nothing has changed");
        budget.share(2, 2);
        assert_eq!(rates(&budget), (1_000, 700));
        budget.share(1, 5_000);
        assert_eq!(rates(&budget), (1, 1), "never nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_shrink_the_rate_and_it_grows_again() {
        let budget = PostBudget::new(1_000);
        for _ in 0..20 {
            let taken = budget.take(100).await;
            budget.settle(taken, 100, 50);
        }
        let rate = budget.state.lock().rate;
        assert_eq!(rate, 20, "it does not shrink below a fiftieth");
        time::advance(Duration::from_mins(1)).await;
        budget.settle(0, 0, 0);
        assert_eq!(budget.state.lock().rate, 1_000);
        budget.settle(100, 100, 4);
        assert_eq!(budget.state.lock().rate, 1_000, "slow clients are no reason");
    }
}
