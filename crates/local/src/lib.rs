//! Headwater whole on one machine: the `headwater` command.

pub mod database;
