//! The function `connection`, behind the WebSocket API.

mod authenticate;
pub mod callback;
mod client;
mod connect;
mod error;
mod event;
mod handler;
mod message;
mod replay;
mod send;
mod subscribe;

pub use event::ConnectionEventError;
pub use handler::handle;
