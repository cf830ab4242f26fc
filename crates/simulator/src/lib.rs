//! Simulated upstreams: a Coinbase exchange and a Mastodon server on loopback ports.
//!
//! They speak the real protocols. In [`Simulator`] they generate their data, the same for the same
//! seed. [`ExchangeServer`] and [`MastodonServer`] send what a test or a benchmark tells them to.
//! [`script`] has a server for tests that play the upstream themselves, message by message.

pub use self::{
    exchange::ExchangeServer,
    faults::{Fault, Faults, Switch},
    mastodon::MastodonServer,
    simulator::{Options, Simulator},
};

mod decimal;
mod exchange;
mod faults;
mod host;
mod mangler;
mod market;
mod mastodon;
pub mod script;
mod serve;
mod session;
mod simulator;
mod stats;
mod timeline;
mod upgrade;

#[cfg(test)]
mod tests;
