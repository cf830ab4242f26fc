//! All parts of Headwater, wired together in one process.

pub mod functions;
pub mod server;
