//! Scaffold.
pub mod gateway;
