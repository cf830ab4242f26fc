//! How often somebody may ask for something, across all functions and gateways.
//!
//! What may be used is counted in the table, and taken from there in growing parts: whoever asks now
//! and then costs one write each time, and whoever asks all the time one for half a second's worth.
//! Whoever asks too much in one process is refused there, at no cost. Of requests that come at the same
//! time, one asks the table, and the others use what it brings.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws::{error::Chain, quota::Quotas};
use jiff::Timestamp;
use lru::LruCache;
use tokio::sync::Mutex as AsyncMutex;
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
#[derive(Debug)]
struct Local {
    /// Held by the one who asks the table.
    asking: Arc<AsyncMutex<()>>,
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
            asking: Arc::default(),
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
    /// Nothing that was taken is left: ask the table, when it is one's turn.
    Ask(Arc<AsyncMutex<()>>),
}

/// What to take from the table.
struct Take {
    part: u32,
    /// Whether little is likely to be used up.
    idle: bool,
}

impl Local {
    /// Uses one of those that were taken.
    fn spend(&mut self, now: Timestamp) -> bool {
        let may = now < self.good_until && self.taken > 0;
        if may {
            self.taken -= 1;
        }
        may
    }
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
        let asking = match self.next(who, per_second, now) {
            Next::Admit => return Ok(()),
            Next::Refuse => return Err(TooOften(wait)),
            Next::Ask(asking) => asking,
        };
        let _asking = asking.lock().await;
        let Take { part, idle } = match self.next_take(who, per_second, now) {
            Ok(take) => take,
            Err(Next::Refuse) => return Err(TooOften(wait)),
            Err(Next::Admit | Next::Ask(_)) => return Ok(()),
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
        if local.spend(now) { Next::Admit } else { Next::Ask(local.asking.clone()) }
    }

    /// What to take now that it is one's turn; the one before may have taken enough for both, or
    /// found that there is no more.
    fn next_take(&self, who: &str, per_second: u32, now: Timestamp) -> Result<Take, Next> {
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(local) = all.get_mut(who) else { return Ok(Take { part: 1, idle: true }) };
        if local.spend(now) {
            return Err(Next::Admit);
        }
        if now < local.refused_until {
            return Err(Next::Refuse);
        }
        let is_good = now < local.good_until;
        local.taken = 0;
        let part = if is_good { (local.part * 2).min(per_second / 2).max(1) } else { 1 };
        Ok(Take { part, idle: !is_good })
    }

    fn update(&self, who: &str, change: impl FnOnce(&mut Local)) {
        let mut all = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(local) = all.get_mut(who) {
            change(local);
        }
    }
}
