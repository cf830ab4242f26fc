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

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("the outer")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn an_error_is_shown_with_its_causes() {
        let cause = std::io::Error::other(fmt::Error);
        let text = fmt::Error.to_string();
        assert_eq!(Chain(&fmt::Error).to_string(), text);
        assert_eq!(Chain(&cause).to_string(), text, "a transparent error has its cause's text");
        assert_eq!(Chain(&Outer(cause)).to_string(), format!("the outer: {text}"));
    }
}
