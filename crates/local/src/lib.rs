//! The `headwater` command: all of Headwater on one machine.

mod adapters;
pub mod bench;
pub mod command;
pub mod in_process;
mod invoke_server;
mod output;
pub mod shutdown;
