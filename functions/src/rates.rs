//! How often somebody may ask for something, across all functions and gateways.
//!
//! What may be used is counted in the table, and taken from there in growing parts: whoever asks now
//! and then costs one write each time, and whoever asks all the time one for half a second's worth.
//! Whoever asks too much in one process is refused there, at no cost.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws::{error::Chain, quota::Quotas};
use jiff::Timestamp;
use lru::LruCache;
use tracing::warn;

/// Who is remembered; API Gateway gives one environment far fewer.
const REMEMBERED: usize = 100_000;

/// How long a part that was taken is good.
const GOOD_FOR: Duration = Duration::from_secs(1);

/// Somebody asked too often, and may ask again after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooOften(pub Duration);

/// Counts requests.
#[derive(Debug)]
pub struct Rates {
    quotas: Quotas,
    local: Mutex<LruCache<String, Local>>,
}

/// What one process knows of somebody.
#[derive(Clone, Copy, Debug)]
struct Local {
    /// What is left in this process, for whoever asks too much of it alone.
    left: f64,
    at: Timestamp,
    /// What was taken from the table and not used.
    taken: u32,
    good_until: Timestamp,
    /// How much was taken last.
    part: u32,
    /// The table had no more.
    refused_until: Timestamp,
}

impl Local {
    fn new(burst: f64, now: Timestamp) -> Self {
        Self {
            left: burst,
            at: now,
            taken: 0,
            good_until: Timestamp::UNIX_EPOCH,
            part: 0,
            refused_until: Timestamp::UNIX_EPOCH,
        }
    }
}

/// What to do about a request.
enum Next {
    Admit,
    Refuse,
    Take { part: u32, idle: bool },
}

impl Rates {
    /// Nobody has asked for anything.
    pub fn new(quotas: Quotas) -> Self {
        // A cache with a bound takes its memory at once.
        Self { quotas, local: Mutex::new(LruCache::unbounded()) }
    }

    /// Whether `who` may ask at `now`, if `per_second` is what it may, with a burst of twice that.
    ///
    /// While the database is away, each process counts by itself.
    ///
    /// # Errors
    ///
    /// [`TooOften`] when it may not.
    pub async fn admit(&self, who: &str, per_second: u32, now: Timestamp) -> Result<(), TooOften> {
        let wait = Duration::from_secs(1) / per_second.max(1);
        let (part, idle) = match self.next(who, per_second, now) {
            Next::Admit => return Ok(()),
            Next::Refuse => return Err(TooOften(wait)),
            Next::Take { part, idle } => (part, idle),
        };
        // Near the end there may be no part, but still one.
        for part in [part, 1] {
            match self.quotas.take(who, part, per_second, idle, now).await {
                Ok(true) => {
                    self.update(who, |local| {
                        local.taken += part - 1;
                        local.part = part;
                        local.good_until = now + GOOD_FOR;
                    });
                    return Ok(());
                }
                Ok(false) if part > 1 => {}
                Ok(false) => break,
                Err(error) => {
                    warn!(error = %Chain(&error), "requests are counted in this process only");
                    return Ok(());
                }
            }
        }
        self.update(who, |local| local.refused_until = now + wait);
        Err(TooOften(wait))
    }

    fn next(&self, who: &str, per_second: u32, now: Timestamp) -> Next {
        let rate = f64::from(per_second);
        let burst = rate * 2.0;
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.pop_lru();
        }
        let local = all.get_or_insert_mut_ref(who, || Local::new(burst, now));
        let passed = now.duration_since(local.at).as_secs_f64().max(0.0);
        local.left = (local.left + passed * rate).min(burst);
        local.at = now;
        if local.left < 1.0 || now < local.refused_until {
            return Next::Refuse;
        }
        local.left -= 1.0;
        let is_good = now < local.good_until;
        if is_good && local.taken > 0 {
            local.taken -= 1;
            return Next::Admit;
        }
        local.taken = 0;
        let part = if is_good { (local.part * 2).min(per_second / 2).max(1) } else { 1 };
        Next::Take { part, idle: !is_good }
    }

    fn update(&self, who: &str, change: impl FnOnce(&mut Local)) {
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(local) = all.get_mut(who) {
            change(local);
        }
    }
}
