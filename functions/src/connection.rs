//! The function `connection`, behind the WebSocket API.

pub mod callback;
mod handler;
pub mod replay;
pub mod subscribe;

pub use handler::{ConnectionEventError, handle};
