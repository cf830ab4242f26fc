//! Every call to AWS: the three tables, posting to connections, invoking functions, reading secrets.

mod call;
pub mod clients;
pub mod connections;
pub mod control;
pub mod error;
#[cfg(test)]
mod fuzz;
pub mod head;
pub mod invoke;
mod item;
pub mod log;
pub mod management;
pub mod push;
pub mod quota;
pub mod reader;
pub mod rules;
pub mod secrets;
pub mod settings;
pub mod tables;
