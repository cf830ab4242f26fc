//! Where the data comes from: the real upstreams or simulators.

use serde::{Deserialize, Serialize};

/// Whether the data in the tables is real. The two are never mixed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Provenance {
    /// From the real upstreams.
    Live,
    /// From simulators.
    Simulated,
}
