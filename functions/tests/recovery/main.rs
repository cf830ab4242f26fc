//! Which position in the log a client is sent, and what it receives while the database does not respond.

#![allow(clippy::unwrap_used, missing_docs)]

mod database;
mod heads;
mod jobs;
mod rules;
mod since;
mod world;
