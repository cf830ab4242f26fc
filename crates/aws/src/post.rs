//! Posting messages to WebSocket connections.

pub use domain::{
    connection::Recipient,
    outlet::{Outlet as Post, PostError},
};
