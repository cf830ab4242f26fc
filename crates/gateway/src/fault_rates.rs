//! Faults that the gateway injects for tests.

use std::time::Duration;

/// How often the gateway injects each fault, as a probability from 0 to 1. The default is 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FaultRates {
    /// `$disconnect` is not invoked for a closed connection. On AWS, its delivery is best effort.
    pub lost_disconnect: f64,
    /// The delay of `$disconnect` after its connection has closed.
    pub disconnect_delay: Duration,
    /// A function is invoked twice with the event of a message.
    pub duplicated_message: f64,
    /// A post fails with status 500.
    pub failed_post: f64,
    /// A connection seems open and accepts posts, but its client receives nothing.
    pub half_open: f64,
}

/// Returns whether a fault with this probability occurs, at random.
pub(crate) fn occurs(probability: f64) -> bool {
    probability > 0.0 && rand::random::<f64>() < probability
}
