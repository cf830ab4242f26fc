//! Where the data comes from: the real upstreams or simulators.

use serde::{Deserialize, Serialize};

/// Whether the data in the tables is real or simulated. The two are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// The data comes from the real upstreams.
    Live,
    /// The data comes from simulators.
    Simulated,
}
