//! The parts of the black-box tests: Headwater itself, simulated upstreams, and clients.
//!
//! Everything listens on ports of its own, so tests run in parallel. Tests wait for conditions, for
//! at most [`PATIENCE`]; a wait that times out panics and prints what has arrived.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

use std::time::Duration;

use tokio::time::{self, Instant};

mod client;
mod cluster;
mod exchange;
mod fediverse;
mod headwater;
mod identity;
mod ports;
mod program;
mod requirement;
mod rest;

pub use self::{
    client::{Client, Event, Gap},
    cluster::Cluster,
    exchange::Exchange,
    fediverse::Fediverse,
    headwater::{Headwater, Setup},
    identity::{SECRET, token},
    ports::Ports,
    program::{Finished, Program},
    requirement::skip,
    rest::{Rest, RestResponse},
};

/// The longest wait for a condition.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is polled.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `look` returns something, and returns it.
///
/// # Panics
///
/// When it returns nothing for too long; `what` names the condition.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        time::sleep(LOOK).await;
    }
}
