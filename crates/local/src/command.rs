//! The commands of `headwater`, one module each.

pub mod database;
pub mod functions;
pub mod gateway;
pub mod policy;
pub mod tail;
