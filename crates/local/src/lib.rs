//! Headwater on one machine.

pub mod simulator;
