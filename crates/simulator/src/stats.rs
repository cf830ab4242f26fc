//! What a simulated upstream has done, for tests and benchmarks to read.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::{Value, json};

/// Counts since the start, and what clients want at the moment.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) messages: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) slow_consumers: AtomicU64,
    wanted: Mutex<BTreeMap<String, u64>>,
}

impl Stats {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts one more connection that wants `subscription`.
    pub(super) fn want(&self, subscription: &str) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        *wanted.entry(subscription.to_owned()).or_default() += 1;
    }

    /// Takes back one [`Stats::want`].
    pub(super) fn unwant(&self, subscription: &str) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        let left = wanted.remove(subscription).map_or(0, |count| count - 1);
        if left > 0 {
            wanted.insert(subscription.to_owned(), left);
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner).clone();
        json!({
            "messages": read(&self.messages),
            "connections": read(&self.accepted) - read(&self.closed),
            "accepted": read(&self.accepted),
            "requests": read(&self.requests),
            "slow_consumers": read(&self.slow_consumers),
            "subscriptions": wanted,
        })
    }
}
