//! How long to wait between attempts.

pub use domain::backoff::Backoff;
