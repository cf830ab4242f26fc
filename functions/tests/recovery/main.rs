//! What a client is told about its position in the log, and what it gets while the database is away.

#![allow(clippy::unwrap_used, missing_docs)]

mod database;
mod heads;
mod rules;
mod since;
mod world;
