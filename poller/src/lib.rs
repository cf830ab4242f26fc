//! The poller: reads the upstreams, numbers their events, appends them to the log, and invokes
//! `push`.

pub mod config;
pub mod families;
pub mod feed;
pub mod health;
pub mod host;
pub mod interest;
pub mod lanes;
pub mod leadership;
pub mod leases;
mod long_work;
pub mod numbering;
pub mod outgoing;
pub mod outside;
pub mod poller;
mod share;
pub mod source;
pub mod states;
pub mod wanted;
