//! The WebSocket API: handshakes, connections, messages, their routes, and the events they cause.

pub(crate) mod connection;
pub(crate) mod events;
pub(crate) mod handshake;
pub(crate) mod messages;
pub(crate) mod response;
pub(crate) mod routes;

pub use self::routes::{Route, Routes, Selection, SelectionError};
