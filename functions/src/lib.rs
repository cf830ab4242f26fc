//! The functions behind API Gateway: `authorize`, `connection`, `rest` and `push`.
//!
//! A handler decodes an event, asks the tables, and encodes the answer. Only the binaries read the
//! clock and the environment; on one machine the same handlers are called in-process.

pub mod app;
pub mod authorize;
pub mod callback;
pub mod caller;
pub mod connection;
pub mod failure;
pub mod guard;
pub mod identity;
pub mod jwks;
pub mod origin;
pub mod page;
pub mod policy;
pub mod problem;
pub mod push;
pub mod rates;
pub mod replay;
pub mod rest;
pub mod rules;
pub mod subscribe;
pub mod token;
pub mod view;
