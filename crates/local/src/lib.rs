//! Headwater whole on one machine: the `headwater` command.

pub mod bench;
pub mod command;
pub mod gateway;
pub mod in_process;
mod output;
pub mod shutdown;
pub use simulator;
pub mod template;
