//! The id of a log. The numbers of two logs have nothing to do with each other.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// The id of a log: random, and made with the tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct LogId(Arc<str>);

impl LogId {
    /// Returns the id that is made of these random bits.
    pub fn from_random(bits: u128) -> Self {
        Self(format!("{bits:032x}").into())
    }

    /// Returns its text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_32_digits() {
        let id = LogId::from_random(0xab);
        assert_eq!(id.to_string(), "000000000000000000000000000000ab");
        assert_eq!(id.as_str(), "000000000000000000000000000000ab");
        assert_ne!(id, LogId::from_random(0xac));
        assert_eq!(serde_json::to_string(&id).expect("JSON"), format!("\"{id}\""));
    }
}
