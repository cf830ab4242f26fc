//! The poller: reads the upstreams, numbers what they say, appends it to the log and has it pushed.

pub mod backoff;
pub mod feed;
pub mod numbering;
pub mod source;
pub mod states;
