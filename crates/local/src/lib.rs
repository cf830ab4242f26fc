//! Headwater whole on one machine: the `headwater` command.

pub mod bench;
pub mod database;
pub mod functions;
pub mod gateway;
pub mod simulator;
pub mod tail;
pub mod up;
