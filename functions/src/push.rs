//! The function `push`: sends the events of a job to the connections of one shard, and reports how
//! far each of them is. It keeps no state that a later job needs.

mod budget;
mod catch_up;
mod fan_out;
mod handler;
mod message;
mod pusher;
mod revoke;
mod segment;
mod view;

pub use pusher::{JobError, Pusher};
