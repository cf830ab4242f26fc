//! The rules in force, in the `control` table: each set under its hash, and which of them counts.
//!
//! A reader asks for the small item that names the set, and reads the set when that has changed.

use aws_sdk_dynamodb::{error::SdkError, types::AttributeValue};
use domain::policy::SetText;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    control::{Control, key, number},
    error::StoreError,
};

/// Partition of everything here.
const RULES: &str = "rules";

/// The item that names the set in force.
const CURRENT: &str = "current";

/// How often a put that lost a race is tried again.
const ATTEMPTS: usize = 5;

/// Which set is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Current {
    /// Up by one at each put; the first is 1.
    pub version: u64,
    /// The set's hash.
    set: String,
    /// When it was put.
    pub at: Timestamp,
    /// Who put it, as far as that is known.
    pub by: String,
}

impl Control {
    /// Returns which set is in force; `None` before the first was put.
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
    /// [`StoreError`] when the database fails, or does not have it.
    pub async fn rules(&self, current: &Current) -> Result<SetText, StoreError> {
        let set: Option<SetText> = self.get(RULES, &set_key(&current.set)).await?;
        set.ok_or_else(|| StoreError::corrupt("control", "the set in force is missing"))
    }

    /// Puts a set in force. Whether it is sound is the caller's to know.
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
        let hash = Sha256::digest(&json);
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        // A set never changes, so writing it twice is fine. It has to be there before it is named.
        self.put(RULES, &set_key(&hash), set, None).await?;
        for attempt in 1.. {
            let before = self.current_rules().await?.map_or(0, |current| current.version);
            let (version, by) = (before + 1, by.to_owned());
            let current = Current { version, set: hash.clone(), at: now, by };
            match self.replace(&current, before).await {
                Ok(true) => return Ok(current),
                Ok(false) if attempt < ATTEMPTS => {}
                Ok(false) => break,
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::corrupt("control", "others put sets at the same time"))
    }

    async fn replace(&self, current: &Current, before: u64) -> Result<bool, StoreError> {
        let json = serde_json::to_string(current).map_err(|e| StoreError::corrupt("control", e))?;
        let mut item = key(RULES, CURRENT);
        item.insert("value".to_owned(), AttributeValue::S(json));
        item.insert("version".to_owned(), number(current.version));
        let put = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk) OR version = :before")
            .expression_attribute_values(":before", number(before))
            .send()
            .await;
        match put {
            Ok(_) => Ok(true),
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() =>
            {
                Ok(false)
            }
            Err(error) => Err(StoreError::from_sdk("PutItem", error)),
        }
    }
}

fn set_key(hash: &str) -> String {
    format!("set/{hash}")
}
