//! Counters of a simulated upstream, for tests and benchmarks.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

use parking_lot::Mutex;
use serde_json::{Value, json};

/// Counts since the start, and the current subscriptions.
#[derive(Debug, Default)]
pub(super) struct Stats {
    pub(super) messages: AtomicU64,
    pub(super) accepted: AtomicU64,
    pub(super) closed: AtomicU64,
    pub(super) requests: AtomicU64,
    pub(super) slow_consumers: AtomicU64,
    subscriptions: Mutex<Subscriptions>,
}

#[derive(Debug, Default)]
struct Subscriptions {
    /// How often all connections were dropped.
    generation: u64,
    counts: BTreeMap<String, u64>,
}

impl Stats {
    pub(super) fn add(counter: &AtomicU64, count: usize) {
        counter.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Returns the generation that a new connection belongs to.
    pub(super) fn generation(&self) -> u64 {
        self.subscriptions.lock().generation
    }

    /// Begins a new generation. The subscriptions of earlier connections are no longer counted.
    pub(super) fn forget_subscriptions(&self) {
        let mut subscriptions = self.subscriptions.lock();
        subscriptions.generation += 1;
        subscriptions.counts.clear();
    }

    /// Counts one more connection with a subscription.
    pub(super) fn subscribed(&self, generation: u64, name: &str) {
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.generation == generation {
            *subscriptions.counts.entry(name.to_owned()).or_default() += 1;
        }
    }

    /// Reverts one [`Stats::subscribed`].
    pub(super) fn unsubscribed(&self, generation: u64, name: &str) {
        let mut subscriptions = self.subscriptions.lock();
        if subscriptions.generation != generation {
            return;
        }
        let left = subscriptions.counts.remove(name).map_or(0, |count| count - 1);
        if left > 0 {
            subscriptions.counts.insert(name.to_owned(), left);
        }
    }

    /// Returns whether any connection has a subscription.
    pub(super) fn is_subscribed(&self, name: &str) -> bool {
        self.subscriptions.lock().counts.contains_key(name)
    }

    pub(super) fn to_json(&self) -> Value {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        json!({
            "messages": read(&self.messages),
            "connections": read(&self.accepted) - read(&self.closed),
            "accepted": read(&self.accepted),
            "requests": read(&self.requests),
            "slow_consumers": read(&self.slow_consumers),
            "subscriptions": self.subscriptions.lock().counts,
        })
    }
}
