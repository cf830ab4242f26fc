//! The function `push`: sends the frames of a job to the connections of one shard.

mod groups;
mod handler;
mod message;
mod pusher;
mod revoke;
mod stragglers;
mod view;

pub use pusher::{JobError, Pusher};
