//! The types and rules of Headwater: topics and their sources, events, frames, the client protocol,
//! access, connections and shards, and the two ports.
//!
//! Nothing here does I/O, reads a clock or knows AWS.

pub mod access;
pub mod backoff;
pub mod chain;
pub mod clock;
pub mod connection;
pub mod duration;
pub mod entry;
pub mod frame;
#[cfg(test)]
mod fuzz;
pub mod log_filter;
pub mod log_id;
pub mod outlet;
pub mod pace;
pub mod post;
pub mod protocol;
pub mod provenance;
pub mod push;
pub mod retry_after;
pub mod rules;
pub mod shard;
pub mod source;
pub mod topic;
