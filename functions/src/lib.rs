//! The functions behind API Gateway: `authorize`, `connection`, `rest` and `push`.
//!
//! A handler decodes an event, calls the stores, and encodes the response. Only the binaries read the
//! clock and the environment. On one machine, the same handlers run in the same process as everything else.

pub mod access;
pub mod app;
pub mod catalog;
pub mod connection;
pub mod failure;
#[cfg(test)]
mod fuzz;
mod heads;
pub mod log_id;
pub mod push;
pub mod rest;
pub mod settings;
pub mod start;
pub mod subscription;
