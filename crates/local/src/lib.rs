//! Headwater whole on one machine: the `headwater` command.

pub mod bench;
pub mod database;
pub mod functions;
pub mod gateway;
pub mod parts;
pub mod policy;
pub use simulator;
pub mod tail;
pub mod template;
pub mod up;
