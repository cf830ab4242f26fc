//! Limits how many bytes of history a client is given.
//!
//! What a client will be given is known only when it was read. So a request takes what it is expected to need,
//! and pays the difference when it has ended. A client that owes something waits until it has paid.
//!
//! Each process counts on its own.

use std::{
    num::NonZeroUsize,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use domain::pace::TokenBucket;
use jiff::Timestamp;
use lru::LruCache;
use parking_lot::Mutex;

use super::rates::RateLimited;

/// Number of clients that a process remembers.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");

/// How many seconds' worth a client is given at once.
const BURST_SECONDS: u32 = 16;

/// What one event is expected to have, in bytes.
pub const EVENT_BYTES: u64 = 256;

/// The bytes of history that each client was given.
#[derive(Debug)]
pub struct Histories {
    /// A token is one KiB.
    clients: Mutex<LruCache<String, TokenBucket<Timestamp>>>,
}

/// The right to be given some history. What was taken and not used is given back at the end.
#[derive(Debug)]
pub struct Grant<'a> {
    histories: &'a Histories,
    client: &'a str,
    kib_per_second: u32,
    taken_kib: u32,
    given: AtomicU64,
    now: Timestamp,
}

impl Histories {
    /// Returns limits that no client has used any of.
    pub fn new() -> Self {
        Self { clients: Mutex::new(LruCache::sparse(MAX_CLIENTS)) }
    }

    /// Begins a request of `client` at `now`, which is expected to be given so many bytes. A request that is
    /// given nothing is always admitted.
    ///
    /// # Errors
    ///
    /// [`RateLimited`] when earlier requests have used more than the limit allows.
    pub fn begin<'a>(
        &'a self,
        client: &'a str,
        bytes_per_second: Option<u32>,
        expected_bytes: u64,
        now: Timestamp,
    ) -> Result<Option<Grant<'a>>, RateLimited> {
        let Some(bytes_per_second) = bytes_per_second.filter(|_| expected_bytes > 0) else {
            return Ok(None);
        };
        let kib_per_second = (bytes_per_second / 1024).max(1);
        // An estimate can be far too high. The rest is paid for when the request has ended.
        let taken_kib = kib(expected_bytes).min(burst(kib_per_second));
        let owed = self.with(client, kib_per_second, |bucket| {
            let wait = bucket.wait(now);
            if wait.is_zero() {
                bucket.reserve_many(taken_kib, now);
            }
            wait
        });
        if owed > Duration::ZERO {
            return Err(RateLimited(owed));
        }
        let given = AtomicU64::new(0);
        Ok(Some(Grant { histories: self, client, kib_per_second, taken_kib, given, now }))
    }

    fn with<T>(
        &self,
        client: &str,
        kib_per_second: u32,
        use_bucket: impl FnOnce(&mut TokenBucket<Timestamp>) -> T,
    ) -> T {
        let burst = burst(kib_per_second);
        let mut clients = self.clients.lock();
        let bucket = clients
            .get_or_insert_mut_ref(client, || TokenBucket::per_second(kib_per_second, burst));
        bucket.set_per_second(kib_per_second, burst);
        use_bucket(bucket)
    }
}

impl Default for Histories {
    fn default() -> Self {
        Self::new()
    }
}

impl Grant<'_> {
    /// Notes that the client was given so many bytes.
    pub fn note(&self, bytes: u64) {
        self.given.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Drop for Grant<'_> {
    fn drop(&mut self) {
        let given = kib(self.given.load(Ordering::Relaxed));
        self.histories.with(self.client, self.kib_per_second, |bucket| {
            if given > self.taken_kib {
                bucket.reserve_many(given - self.taken_kib, self.now);
            } else {
                bucket.give_back(self.taken_kib - given, self.now);
            }
        });
    }
}

/// Returns how many KiB a client is given at once.
fn burst(kib_per_second: u32) -> u32 {
    kib_per_second.saturating_mul(BURST_SECONDS)
}

/// Returns the smallest number of KiB that holds so many bytes.
fn kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Option<u32> = Some(10 * 1024);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    /// Begins a request, and returns after how many seconds it can begin.
    fn wait(histories: &Histories, client: &str, now: Timestamp) -> u128 {
        match histories.begin(client, LIMIT, 1, now) {
            Ok(_) => 0,
            Err(RateLimited(wait)) => wait.as_millis().div_ceil(1_000),
        }
    }

    #[test]
    fn a_client_pays_for_what_it_was_given_and_not_for_what_was_expected() {
        let histories = Histories::new();
        let grant = histories.begin("a", LIMIT, u64::MAX, at(0)).expect("admitted");
        assert_eq!(wait(&histories, "a", at(0)), 1, "everything is taken");
        assert_eq!(wait(&histories, "b", at(0)), 0);
        drop(grant);
        assert_eq!(wait(&histories, "a", at(0)), 0);
        let grant = histories.begin("a", LIMIT, 1, at(0)).expect("admitted").expect("a limit");
        grant.note(180 * 1024);
        drop(grant);
        assert_eq!(wait(&histories, "a", at(0)), 3, "it owes 20 KiB");
        assert_eq!(wait(&histories, "a", at(3)), 0);
    }

    #[test]
    fn without_a_limit_everything_is_admitted() {
        let histories = Histories::new();
        for _ in 0..10 {
            let grant = histories.begin("a", None, u64::MAX, at(0)).expect("admitted");
            assert!(grant.is_none());
        }
    }
}
