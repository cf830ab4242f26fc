//! Headwater whole on one machine: the `headwater` command.

pub mod database;
pub mod functions;
pub mod gateway;
pub mod up;
