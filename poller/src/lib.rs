//! The poller: reads the upstreams, numbers what they say, appends it to the log and has it pushed.

pub mod backoff;
pub mod config;
pub mod feed;
pub mod health;
pub mod interest;
pub mod lanes;
pub mod leases;
pub mod numbering;
pub mod poller;
pub mod source;
pub mod states;
