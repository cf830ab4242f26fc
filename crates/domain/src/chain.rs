//! Errors of any type, and how they are logged with their causes.

use std::{error::Error as StdError, fmt};

/// Any cause.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Shows an error with its causes on one line, for logs.
pub struct Chain<'a>(pub &'a (dyn StdError + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
