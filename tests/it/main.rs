//! Black-box tests: they talk to the running system over HTTP and WebSocket only.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on should say so and stop")]

mod cli;
mod cluster;
mod coinbase;
mod faults;
mod mastodon;
mod protocol;
mod rest;
mod resume;
mod simulated;
mod slow;
