//! The functions behind API Gateway: `authorize`, `connection`, `rest` and `push`.
//!
//! A handler decodes an event, asks the tables, and encodes the answer. Only the binaries read the
//! clock and the environment; on one machine the same handlers are called in-process.

pub mod access;
pub mod app;
pub mod connection;
pub mod failure;
pub mod push;
pub mod rest;

pub use access::{authorize, identity, origin, token};
pub use connection::callback;
