//! Rate limits that all functions and gateways enforce together.
//!
//! The count is kept in the table. A process takes requests from it in batches, which grow while a client
//! keeps sending. So an occasional client costs one write per request, and a busy client costs one write per
//! half second. A client that exceeds its limit within one process is rejected there, without a write. When
//! several requests arrive at once, one takes a batch from the table, and the others use it.

use std::{num::NonZeroUsize, sync::Arc, time::Duration};

use aws::quota::Quotas;
use domain::{chain::Chain, pace::TokenBucket};
use jiff::Timestamp;
use lru::LruCache;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;

/// Number of clients that a process remembers. One Lambda environment serves far fewer.
const MAX_CLIENTS: NonZeroUsize = NonZeroUsize::new(100_000).expect("not zero");

/// How long a batch stays valid.
const BATCH_LIFETIME: Duration = Duration::from_secs(1);

/// A request exceeds the rate limit; the client can retry after this time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimited(pub Duration);

/// Enforces the rate limits.
#[derive(Debug)]
pub struct Rates {
    quotas: Quotas,
    clients: Mutex<LruCache<String, Client>>,
}

/// What one process knows about a client.
#[derive(Debug)]
struct Client {
    /// Rejects a client that exceeds its limit within this process alone.
    bucket: TokenBucket<Timestamp>,
    /// Held while a request asks the table.
    asking: Arc<AsyncMutex<()>>,
    /// Requests that were taken from the table and not used.
    taken: u32,
    taken_until: Timestamp,
    /// The size of the last batch.
    batch: u32,
    /// Until this time, the table has no requests left.
    rejected_until: Timestamp,
}

/// What to do with a request.
enum Decision {
    Admit,
    Reject,
    /// No taken requests are left: ask the table, one request at a time.
    Ask(Arc<AsyncMutex<()>>),
}

/// What to do with a request whose turn it is to ask the table.
enum Turn {
    /// The request before this one took enough for both.
    Admit,
    /// The request before this one found that there is nothing left.
    Reject,
    Take {
        batch: u32,
        /// Whether the client sends so rarely that its limit is probably unused.
        idle: bool,
    },
}

impl Rates {
    /// Returns limits that no client has used any of.
    pub fn new(quotas: Quotas) -> Self {
        Self { quotas, clients: Mutex::new(LruCache::sparse(MAX_CLIENTS)) }
    }

    /// Admits a request of `client` at `now`, if the client stays under `per_second` with a burst of
    /// twice that.
    ///
    /// While the database is unavailable, each process counts on its own.
    ///
    /// # Errors
    ///
    /// [`RateLimited`] when the client exceeds its limit.
    pub async fn admit(
        &self,
        client: &str,
        per_second: u32,
        now: Timestamp,
    ) -> Result<(), RateLimited> {
        let wait = Duration::from_secs(1) / per_second.max(1);
        let asking = match self.decide(client, per_second, now) {
            Decision::Admit => return Ok(()),
            Decision::Reject => return Err(RateLimited(wait)),
            Decision::Ask(asking) => asking,
        };
        let _asking = asking.lock().await;
        let (batch, idle) = match self.turn(client, per_second, now) {
            Turn::Take { batch, idle } => (batch, idle),
            Turn::Admit => return Ok(()),
            Turn::Reject => return Err(RateLimited(wait)),
        };
        // Near the limit the table may not have a whole batch, but still one request.
        for batch in [batch, 1] {
            match self.quotas.take(client, batch, per_second, idle, now).await {
                Ok(true) => {
                    self.update(client, |client| {
                        client.taken += batch - 1;
                        client.batch = batch;
                        client.taken_until = now + BATCH_LIFETIME;
                    });
                    return Ok(());
                }
                Ok(false) if batch > 1 => {}
                Ok(false) => break,
                Err(error) => {
                    warn!(
                        error = %Chain(&error),
                        "could not count a request in the table; counting in this process only"
                    );
                    return Ok(());
                }
            }
        }
        self.update(client, |client| client.rejected_until = now + wait);
        Err(RateLimited(wait))
    }

    fn decide(&self, client: &str, per_second: u32, now: Timestamp) -> Decision {
        let burst = per_second.saturating_mul(2);
        let mut clients = self.clients.lock();
        let client = clients.get_or_insert_mut_ref(client, || Client::new(per_second, burst));
        client.bucket.set_per_second(per_second, burst);
        if per_second == 0 || now < client.rejected_until || client.bucket.take(now).is_err() {
            return Decision::Reject;
        }
        if client.use_taken(now) { Decision::Admit } else { Decision::Ask(client.asking.clone()) }
    }

    /// Decides again for a request whose turn it is to ask the table.
    fn turn(&self, client: &str, per_second: u32, now: Timestamp) -> Turn {
        let mut clients = self.clients.lock();
        let Some(client) = clients.get_mut(client) else {
            return Turn::Take { batch: 1, idle: true };
        };
        if client.use_taken(now) {
            return Turn::Admit;
        }
        if now < client.rejected_until {
            return Turn::Reject;
        }
        let idle = now >= client.taken_until;
        client.taken = 0;
        let batch = if idle { 1 } else { (client.batch * 2).min(per_second / 2).max(1) };
        Turn::Take { batch, idle }
    }

    fn update(&self, client: &str, change: impl FnOnce(&mut Client)) {
        if let Some(client) = self.clients.lock().get_mut(client) {
            change(client);
        }
    }
}

impl Client {
    fn new(per_second: u32, burst: u32) -> Self {
        Self {
            bucket: TokenBucket::per_second(per_second, burst),
            asking: Arc::default(),
            taken: 0,
            taken_until: Timestamp::UNIX_EPOCH,
            batch: 0,
            rejected_until: Timestamp::UNIX_EPOCH,
        }
    }

    /// Uses one of the taken requests, if there is one.
    fn use_taken(&mut self, now: Timestamp) -> bool {
        let has_taken = now < self.taken_until && self.taken > 0;
        if has_taken {
            self.taken -= 1;
        }
        has_taken
    }
}
