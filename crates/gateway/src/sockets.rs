//! The open connections: one socket each, and the table of all.

pub(crate) mod socket;
pub(crate) mod table;

pub use self::table::Sockets;
