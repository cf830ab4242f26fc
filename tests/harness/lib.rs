//! What the black-box tests are made of: Headwater itself, stand-ins for its upstreams, and clients.
//!
//! Everything listens on ports of its own, so tests run side by side. Whatever is waited for is a
//! condition, for at most [`PATIENCE`]; what does not come is a panic that says what came.

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
    rest::{Answer, Rest},
};

/// How long is waited for what has to come.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at that tells nobody when it changes.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `look` finds something, and returns it.
///
/// # Panics
///
/// When it finds nothing for too long; `what` says what that was.
pub async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        time::sleep(LOOK).await;
    }
}
