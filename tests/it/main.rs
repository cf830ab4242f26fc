//! Black-box tests: they talk to the running system over HTTP and WebSocket only.

#![allow(clippy::unwrap_used, reason = "a panic is the right end of a failed test")]

mod access;
mod cli;
mod cluster;
mod coinbase;
mod database;
mod faults;
mod mastodon;
mod permissions;
mod protocol;
mod quotas;
mod rest;
mod resume;
mod rules;
mod settings;
mod shards;
mod simulated;
mod simulation;
mod slow;
