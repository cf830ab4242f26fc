//! The function `push`: sends the frames of a job to the connections of one shard.

mod handler;
mod view;

pub use handler::{JobError, Pusher};
