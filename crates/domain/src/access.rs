//! Who is connected, and what they may use up.

use serde::{Deserialize, Serialize};

/// The class of whoever shows no token.
pub const ANONYMOUS: &str = "anonymous";

/// Whom a connection or a request belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Principal {
    /// The token's subject, or `anonymous`.
    pub id: String,
    /// The class the rules speak of, such as `trader`.
    pub class: String,
}

impl Principal {
    /// Whoever shows no token.
    pub fn anonymous() -> Self {
        Self { id: ANONYMOUS.to_owned(), class: ANONYMOUS.to_owned() }
    }
}

/// What one connection may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Topics subscribed to at the same time.
    pub topics: usize,
    /// Messages a second to the server, with a burst of twice that.
    pub messages_per_second: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { topics: 50, messages_per_second: 10 }
    }
}
