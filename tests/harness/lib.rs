//! The parts of the black-box tests: Headwater itself, simulated upstreams, and clients.
//!
//! Everything listens on ports of its own, so tests run in parallel. Tests wait for conditions, for
//! at most [`PATIENCE`]; a wait that times out panics and prints what has arrived.

#![allow(clippy::unwrap_used, reason = "a panic is the right end of a failed test")]

use std::time::Duration;

use tokio::time::{self, Instant};

mod client;
mod cluster;
mod headwater;
mod identity;
mod ports;
mod program;
mod requirement;
mod rest;
mod serverless;

pub use self::{
    client::{Client, Event, Gap},
    cluster::Cluster,
    headwater::{Headwater, Setup},
    identity::{SECRET, token},
    ports::Ports,
    program::{Finished, Program},
    requirement::skip,
    rest::{Rest, RestResponse},
    serverless::{
        Serverless,
        roles::{Call, Roles},
    },
};
pub use simulator::{ExchangeServer, MastodonServer};

/// The longest wait for a condition.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The interval at which a condition is checked.
const CHECK_EVERY: Duration = Duration::from_millis(20);

/// Waits until `check` returns a value, and returns the value.
///
/// # Panics
///
/// When `check` returns no value in time; `what` names the condition.
pub async fn until<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = check().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        time::sleep(CHECK_EVERY).await;
    }
}
