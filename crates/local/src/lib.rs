//! Headwater whole on one machine: the `headwater` command.

pub mod adapters;
pub mod bench;
pub mod database;
pub mod functions;
pub mod parts;
pub mod policy;
pub mod simulator;
pub mod tail;
pub mod up;
