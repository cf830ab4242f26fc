//! Headwater whole on one machine: the `headwater` command.

mod adapters;
pub mod bench;
pub mod command;
pub mod in_process;
mod output;
pub mod shutdown;
