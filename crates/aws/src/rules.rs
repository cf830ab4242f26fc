//! The access rules in the `control` table: each set under its hash, and an item with the hash of the
//! current set.
//!
//! A reader polls that small item, and reads the set when the hash changes.

use domain::rules::SetText;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{control::Control, error::StoreError};

/// The partition of all items of this module.
const RULES: &str = "rules";

/// The sort key of the item with the hash of the current set.
const CURRENT: &str = "current";

/// Maximum number of attempts to write while others write at the same time.
const ATTEMPTS: usize = 5;

/// The current set: its version and its hash.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// The number of the change that made the set current, counted from 1.
    pub version: u64,
    /// The hash of the set.
    set: String,
    /// When it became current.
    pub at: Timestamp,
    /// The principal that made it current, if known.
    pub by: String,
}

impl Control {
    /// Returns the version and the hash of the current set; `None` before there is one.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn current_rules(&self) -> Result<Option<Current>, StoreError> {
        self.get(RULES, CURRENT).await
    }

    /// Returns the text of a set.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails or does not have the set.
    pub async fn rules(&self, current: &Current) -> Result<SetText, StoreError> {
        let set: Option<SetText> = self.get(RULES, &set_key(&current.set)).await?;
        set.ok_or_else(|| StoreError::corrupt("control", "the current set of rules is missing"))
    }

    /// Makes a set the current one. The caller has validated it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn put_rules(
        &self,
        set: &SetText,
        by: &str,
        now: Timestamp,
    ) -> Result<Current, StoreError> {
        let json = serde_json::to_vec(set).map_err(|e| StoreError::corrupt("control", e))?;
        let hash = hex(&Sha256::digest(&json));
        // A stored set never changes, so writing it twice is fine. It must exist before it is current.
        self.put(RULES, &set_key(&hash), set, None).await?;
        for attempt in 1.. {
            let before = self.current_rules().await?.map_or(0, |current| current.version);
            let current =
                Current { version: before + 1, set: hash.clone(), at: now, by: by.to_owned() };
            let key = (RULES, CURRENT);
            if self.put_version(key, &current, before, current.version).await? {
                return Ok(current);
            }
            if attempt >= ATTEMPTS {
                break;
            }
        }
        Err(StoreError::corrupt("control", "other writers changed the rules at the same time"))
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the sort key of a set.
fn set_key(hash: &str) -> String {
    format!("set/{hash}")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_current_set_is_read_as_it_was_written(
            version: u64, set in "[0-9a-f]{64}", by in "\\PC{0,40}", at in 0..4_000_000_000_i64,
        ) {
            let at = Timestamp::from_second(at).expect("a time");
            let current = Current { version, set, at, by };
            let json = serde_json::to_string(&current).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<Current>(&json).expect("a version"), current);
        }

        #[test]
        fn a_set_is_read_as_it_was_written(policies in "\\PC{0,60}", limits in "\\PC{0,60}") {
            let set = SetText { policies, limits };
            let json = serde_json::to_string(&set).expect("JSON");
            prop_assert_eq!(serde_json::from_str::<SetText>(&json).expect("a set"), set);
        }

        #[test]
        fn each_set_has_its_key(one: [u8; 4], other: [u8; 4]) {
            let keys = [one, other].map(|bytes| set_key(&hex(&bytes)));
            prop_assert_eq!(keys[0] == keys[1], one == other);
            prop_assert!(!keys.contains(&CURRENT.to_owned()));
        }
    }
}
