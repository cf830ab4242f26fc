//! Faults that a gateway makes on purpose, at the rates that a test asks for.

use std::time::Duration;

/// How often the gateway misbehaves, as probabilities from 0 to 1. The default is never.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// `$disconnect` is not invoked for a connection that ended. On AWS its delivery is best effort.
    pub lost_disconnect: f64,
    /// How much later than the end of its connection `$disconnect` runs.
    pub disconnect_delay: Duration,
    /// A message's event reaches the function twice.
    pub duplicated_message: f64,
    /// A post fails with status 500.
    pub failed_post: f64,
    /// A connection looks open and accepts posts, but its client receives nothing.
    pub half_open: f64,
}

/// Decides at random, with this probability.
pub(crate) fn strikes(probability: f64) -> bool {
    probability > 0.0 && rand::random::<f64>() < probability
}
