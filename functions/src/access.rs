//! Who makes a request, and what that principal may do.

pub mod authorize;
pub mod caller;
pub mod identity;
pub mod jwks;
pub mod origin;
pub mod rates;
pub mod rules;
pub mod token;
