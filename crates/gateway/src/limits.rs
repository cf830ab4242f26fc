//! The gateway's limits. The defaults are the quotas of AWS.

use std::{num::NonZero, time::Duration};

use tokio::sync::Semaphore;

use crate::rate::Rate;

/// The number of file descriptors that are reserved for purposes other than connections.
const OTHER_FILES: usize = 128;

/// The sizes, times and rates that the gateway enforces.
///
/// The defaults are the quotas of AWS ("API Gateway quotas for WebSocket APIs"), except for the rate
/// limits of an account, which would throttle a gateway with a machine of its own.
/// [`GatewayLimits::with_account_rates`] adds them.
#[derive(Clone, Debug)]
pub struct GatewayLimits {
    /// Longest time without a message in either direction (quota: 10 minutes).
    pub idle: Duration,
    /// Longest lifetime of a connection (quota: 2 hours).
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
    /// Requests of every kind: handshakes, messages, HTTP requests, and posts (quota: 10,000/s, bucket
    /// of 5,000, for all APIs of an account together). `None` means no limit.
    pub requests: Option<Rate>,
    /// Handshakes (quota: 500/s). `None` means no limit.
    pub connects: Option<Rate>,
    /// Pending bytes per client beyond the kernel's buffer. A post that does not fit is rejected.
    pub send_buffer_bytes: usize,
    /// The kernel's send buffer of a connection (`SO_SNDBUF`).
    pub socket_buffer_bytes: usize,
    /// Messages of one connection that functions process at the same time. At this limit, the gateway
    /// stops reading from the connection.
    pub in_flight: u32,
    /// Handshakes that functions process at the same time. Further handshakes wait.
    pub handshakes: usize,
    /// Messages, pings and fragments of one connection. Above this rate, the gateway reads more slowly. API
    /// Gateway has no such limit; it bills each message. `None` means no limit.
    pub messages: Option<Rate>,
    /// Bytes that one connection sends. Above this rate, the gateway reads more slowly. `None` means no limit.
    pub bytes: Option<Rate>,
    /// Bytes that all clients of one address send, in messages and in the bodies of requests. Above this rate,
    /// the gateway reads messages more slowly, and requests wait. `None` means no limit.
    pub address_bytes: Option<Rate>,
    /// Requests of all clients of one address to the HTTP API. Above this rate, requests wait. `None` means no
    /// limit.
    pub address_requests: Option<Rate>,
    /// Bytes of the bodies of requests from one address that the gateway has in memory at the same time. Further
    /// bodies wait.
    pub address_body_bytes: usize,
    /// How long the gateway may read from a client more slowly without reaching the end of what the client has
    /// sent. Then it disconnects the client with code 1008.
    pub longest_pause: Duration,
    /// Open TCP connections. Further connections are closed immediately.
    pub connections: usize,
    /// Open connections of one address. Further connections are closed immediately. Behind a trusted proxy, only
    /// open sockets count, for the addresses of their clients; further handshakes get 429.
    pub address_connections: usize,
    /// Handshakes of one address that functions process at the same time. Further handshakes wait.
    pub address_handshakes: usize,
    /// Handshakes, messages and requests of one address that are handled at the same time. Further ones wait.
    /// Health checks of a trusted proxy do not count.
    pub address_work: usize,
    /// How long each of them counts at most. What takes longer mostly waits for something else.
    pub address_turn: Duration,
    /// Invocations for the clients of one address at the same time. Further ones wait. It matters if the functions
    /// run in a few environments only, each of which handles one invocation at a time.
    pub address_invocations: usize,
    /// Longest wait for a request's head, and for its body, beyond the time that its size takes at
    /// `http_read_rate`.
    pub http_read: Duration,
    /// Least rate at which a client sends a body, in bytes per second.
    pub http_read_rate: u32,
    /// Longest time until a client has received a response, beyond the time that its size takes at
    /// `http_write_rate`.
    pub http_write: Duration,
    /// Least rate at which a client receives a response, in bytes per second.
    pub http_write_rate: u32,
    /// Longest time for a closed connection to drain, and for the gateway to shut down.
    pub grace: Duration,
}

impl Default for GatewayLimits {
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
            bytes: None,
            address_bytes: None,
            address_requests: None,
            address_body_bytes: Semaphore::MAX_PERMITS,
            longest_pause: Duration::MAX,
            connections: Semaphore::MAX_PERMITS,
            address_connections: usize::MAX,
            address_handshakes: Semaphore::MAX_PERMITS,
            address_work: Semaphore::MAX_PERMITS,
            address_turn: Duration::from_millis(200),
            address_invocations: Semaphore::MAX_PERMITS,
            http_read: Duration::from_secs(30),
            http_read_rate: 16 * 1_024,
            http_write: Duration::from_secs(30),
            http_write_rate: 16 * 1_024,
            grace: Duration::from_secs(5),
        }
    }
}

impl GatewayLimits {
    /// Returns limits for a public gateway. They keep clients that flood the gateway, or are slow, from taking
    /// the file descriptors, the memory and the time of the others.
    pub fn guarded() -> Self {
        let connections = open_files().map_or(Semaphore::MAX_PERMITS, |files| {
            files.saturating_sub(OTHER_FILES).max(OTHER_FILES)
        });
        Self {
            http_read: Duration::from_secs(10),
            http_write: Duration::from_secs(10),
            messages: Some(Rate::new(50, 100)),
            bytes: Some(Rate::new(128 * 1_024, 256 * 1_024)),
            address_bytes: Some(Rate::new(1_024 * 1_024, 2 * 1_024 * 1_024)),
            address_requests: Some(Rate::new(1_000, 1_000)),
            address_body_bytes: 32 * 1_024 * 1_024,
            longest_pause: Duration::from_secs(30),
            connections,
            // A quarter remains for the others.
            address_connections: connections - connections / 4,
            address_handshakes: 16,
            address_work: 2 * std::thread::available_parallelism().map_or(2, NonZero::get),
            ..Self::default()
        }
    }

    /// Adds the rate limits of an AWS account.
    #[must_use]
    pub fn with_account_rates(self) -> Self {
        Self {
            requests: Some(Rate::new(10_000, 5_000)),
            connects: Some(Rate::new(500, 500)),
            ..self
        }
    }
}

/// Returns the number of files that the process may open (Linux), or `None` if it is unknown.
fn open_files() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_files_are_reserved() {
        let files = open_files().expect("Linux reports it");
        let connections = GatewayLimits::guarded().connections;
        assert!(connections < files || files < 2 * OTHER_FILES, "{connections} of {files}");
    }
}
