//! Secrets that can be rotated: comma-separated lists, the newest first.

use secrecy::{ExposeSecret as _, SecretString};

/// Minimum length of a safe secret: the length of the hash (RFC 7518, section 3.2).
pub const SAFE_SECRET_BYTES: usize = 32;

/// Parses a secret, or several separated by commas. The first one signs; all of them verify.
///
/// # Errors
///
/// A sentence that does not repeat the text.
pub fn parse_secrets(text: &str) -> Result<SecretString, String> {
    if text.split(',').any(str::is_empty) {
        return Err("the secret is empty".to_owned());
    }
    Ok(SecretString::from(text))
}

/// Returns the secrets in a list, the newest first.
pub fn secrets(list: &SecretString) -> impl Iterator<Item = &str> {
    list.expose_secret().split(',')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_secret_is_rejected() {
        for text in ["", ",", "a,", ",a"] {
            assert!(parse_secrets(text).is_err(), "case: {text}");
        }
        assert!(parse_secrets("a,b").is_ok());
    }
}
