//! Headwater whole on one machine: the `headwater` command.

pub mod bench;
pub mod functions;
pub mod gateway;
pub mod parts;
pub mod policy;
pub mod simulator;
pub mod tail;
pub mod template;
pub mod up;
