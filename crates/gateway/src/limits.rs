//! The gateway's limits, by default the quotas of AWS, and the token bucket that enforces rates.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

/// Files that are left to upstreams, the database and whatever else has some open.
const OTHER_FILES: usize = 128;

/// Sizes, times and rates the gateway enforces.
///
/// The default is what AWS enforces ("API Gateway quotas for WebSocket APIs"), without the account's
/// rates: those cap a gateway that has a machine of its own, so [`Limits::aws`] turns them on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Longest time without a message in either direction (quota: 10 minutes).
    pub idle: Duration,
    /// Longest life of a connection (quota: 2 hours).
    pub lifetime: Duration,
    /// Largest frame in either direction (quota: 32 KB).
    pub frame_bytes: usize,
    /// Largest message in either direction (quota: 128 KB).
    pub message_bytes: usize,
    /// Longest URL of a handshake (quota: 4,096 characters).
    pub url_bytes: usize,
    /// Largest body of an HTTP API request (quota: 10 MB).
    pub http_body_bytes: usize,
    /// Largest request line with headers (HTTP API quota: 10,240 bytes).
    pub http_head_bytes: usize,
    /// Longest wait for a function (quota: 29 seconds for WebSocket APIs).
    pub integration: Duration,
    /// Longest wait for an authorizer.
    pub authorizer: Duration,
    /// Requests of every kind: handshakes, messages, HTTP requests, posts (quota: 10,000/s, bucket
    /// of 5,000, an account's APIs together). None means no limit.
    pub requests: Option<Rate>,
    /// Handshakes (quota: 500/s). None means no limit.
    pub connects: Option<Rate>,
    /// What may wait for a client beyond the kernel's buffer. A post that does not fit is refused.
    pub send_buffer_bytes: usize,
    /// The kernel's send buffer of a connection (`SO_SNDBUF`).
    pub socket_buffer_bytes: usize,
    /// Messages of one connection that functions work on at the same time. Beyond it the gateway
    /// stops reading from that connection.
    pub in_flight: u32,
    /// Handshakes that functions work on at the same time. More wait for their turn.
    pub handshakes: usize,
    /// Messages of one connection, past which the gateway reads on slowly. API Gateway has no such
    /// limit, and bills each message instead. None means no limit.
    pub messages: Option<Rate>,
    /// TCP connections at the same time. More are closed at once.
    pub connections: usize,
    /// Longest wait for a request's head, and for its body.
    pub http_read: Duration,
    /// How long a closed connection may take to drain, and a stopping gateway to finish.
    pub grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(10),
            lifetime: Duration::from_hours(2),
            frame_bytes: 32_768,
            message_bytes: 131_072,
            url_bytes: 4_096,
            http_body_bytes: 10 * 1_024 * 1_024,
            http_head_bytes: 10_240,
            integration: Duration::from_secs(29),
            authorizer: Duration::from_secs(29),
            requests: None,
            connects: None,
            send_buffer_bytes: 64 * 1_024,
            socket_buffer_bytes: 256 * 1_024,
            in_flight: 16,
            handshakes: 64,
            messages: None,
            connections: Semaphore::MAX_PERMITS,
            http_read: Duration::from_secs(30),
            grace: Duration::from_secs(5),
        }
    }
}

impl Limits {
    /// What a program needs that is reached by strangers, and serves no large requests: one that
    /// floods or dawdles costs itself, and leaves files and memory to the others.
    pub fn guarded() -> Self {
        Self {
            http_body_bytes: 1_024 * 1_024,
            http_read: Duration::from_secs(10),
            messages: Some(Rate { per_second: 200, burst: 1_000 }),
            connections: open_files().map_or(Semaphore::MAX_PERMITS, |files| {
                files.saturating_sub(OTHER_FILES).max(OTHER_FILES)
            }),
            ..Self::default()
        }
    }

    /// The default with the rates of an AWS account.
    pub fn aws() -> Self {
        Self {
            requests: Some(Rate { per_second: 10_000, burst: 5_000 }),
            connects: Some(Rate { per_second: 500, burst: 500 }),
            ..Self::default()
        }
    }
}

/// How many files the process may have open (Linux); `None` where that cannot be told.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A rate with the size of its bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Tokens that come back each second.
    pub per_second: u32,
    /// Tokens a full bucket holds.
    pub burst: u32,
}

/// A token bucket without a lock: it keeps the time at which the bucket will be full again.
#[derive(Debug)]
pub(super) struct Bucket {
    rate: Option<Rate>,
    started: Instant,
    full_at_nanos: AtomicU64,
}

impl Bucket {
    pub(super) fn new(rate: Option<Rate>) -> Self {
        Self { rate, started: Instant::now(), full_at_nanos: AtomicU64::new(0) }
    }

    /// Takes one token if there is one.
    pub(super) fn take(&self) -> bool {
        let Some(rate) = self.rate else { return true };
        self.take_at(rate, self.started.elapsed())
    }

    fn take_at(&self, rate: Rate, now: Duration) -> bool {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        let token = 1_000_000_000 / u64::from(rate.per_second.max(1));
        let bucket = token * u64::from(rate.burst);
        self.full_at_nanos
            .try_update(Ordering::Relaxed, Ordering::Relaxed, |full_at| {
                let next = full_at.max(now) + token;
                (next - now <= bucket).then_some(next)
            })
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_burst_and_then_its_rate() {
        let rate = Rate { per_second: 10, burst: 3 };
        let bucket = Bucket::new(Some(rate));
        let taken = |ms| {
            let now = Duration::from_millis(ms);
            (0..10).take_while(|_| bucket.take_at(rate, now)).count()
        };
        assert_eq!(taken(0), 3, "a full bucket");
        assert_eq!(taken(50), 0, "no whole token yet");
        assert_eq!(taken(100), 1, "one token came back");
        assert_eq!(taken(60_000), 3, "no more than a bucket");
    }

    #[test]
    fn a_program_leaves_itself_some_files() {
        let files = open_files().expect("Linux tells");
        let connections = Limits::guarded().connections;
        assert!(connections < files || files < 2 * OTHER_FILES, "{connections} of {files}");
    }

    #[test]
    fn no_rate_is_no_limit() {
        let bucket = Bucket::new(None);
        assert!((0..100_000).all(|_| bucket.take()));
    }
}
