//! The functions behind API Gateway: `authorize`, `connection`, `rest` and `push`.
//!
//! A handler decodes an event, asks the tables, and encodes the answer. Only the binaries read the
//! clock and the environment; on one machine the same handlers are called in-process.

pub mod app;
pub mod authorize;
pub mod callback;
pub mod connection;
pub mod failure;
pub mod page;
pub mod problem;
pub mod push;
pub mod replay;
pub mod rest;
pub mod subscribe;
pub mod token;
pub mod view;
