//! The types and rules of Headwater: topics, events, frames, the client protocol and access.
//!
//! Nothing here does I/O, reads a clock or knows AWS.

pub mod access;
pub mod backlog;
pub mod connection;
pub mod frame;
pub mod policy;
pub mod post;
pub mod protocol;
pub mod topic;
