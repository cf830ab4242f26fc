//! Access control: who the caller is, and what it may do how often.

pub mod authorize;
pub mod caller;
pub(crate) mod headers;
pub mod history;
pub mod identity;
mod jwks;
pub mod origin;
pub mod rates;
pub mod rules;
pub mod secrets;
pub mod token;
