//! Simulated upstreams: a Coinbase exchange and a Mastodon server on loopback ports.
//!
//! They speak the real protocols. In [`Simulator`] they generate their data; the same seed generates
//! the same data. A test or a benchmark controls what [`ExchangeServer`] and [`MastodonServer`] send.
//! [`script`] has a server whose every response and message a test sends itself.

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
mod loopback;
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
mod wait;

#[cfg(test)]
mod tests;
