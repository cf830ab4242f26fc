//! Access control: who the caller is, what it has permission to do, and how often.

pub mod authorize;
pub mod caller;
pub mod identity;
mod jwks;
pub mod origin;
pub mod rates;
pub mod rules;
pub mod secrets;
pub mod token;
