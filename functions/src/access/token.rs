//! Connection tokens, by which a client steers its connection over REST.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::connection::ConnectionId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

/// Fewest bytes that a secret should have: as many as the hash has (RFC 7518, section 3.2).
pub const SAFE_SECRET_BYTES: usize = 32;

/// Reads a secret, or several separated by commas: the first makes tokens, all of them check.
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

/// The secrets in a list, the newest first.
pub fn secrets(list: &SecretString) -> impl Iterator<Item = &str> {
    list.expose_secret().split(',')
}

/// Makes and checks connection tokens.
#[derive(Clone, Debug)]
pub struct ConnectionTokens {
    secrets: SecretString,
}

impl ConnectionTokens {
    /// Tokens under these secrets, as [`parse_secrets`] reads them.
    pub fn new(secrets: SecretString) -> Self {
        Self { secrets }
    }

    /// The token of a connection: HMAC-SHA-256 of its id, in URL-safe base64.
    pub fn make(&self, id: &ConnectionId) -> String {
        let newest = secrets(&self.secrets).next().unwrap_or_default();
        URL_SAFE_NO_PAD.encode(mac(newest, id).finalize().into_bytes())
    }

    /// Whether `token` is that of the connection, in a time that does not tell how much of it is.
    pub fn check(&self, id: &ConnectionId, token: &str) -> bool {
        let Ok(token) = URL_SAFE_NO_PAD.decode(token) else { return false };
        secrets(&self.secrets).any(|secret| mac(secret, id).verify_slice(&token).is_ok())
    }
}

fn mac(secret: &str, id: &ConnectionId) -> Hmac<Sha256> {
    let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes());
    let mac = mac.expect("HMAC takes keys of any size");
    mac.chain_update(b"headwater connection ").chain_update(id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_token_is_good_for_its_connection_only() {
        let tokens = ConnectionTokens::new(SecretString::from("s"));
        let (a, b) = (ConnectionId::new("a="), ConnectionId::new("b="));
        let token = tokens.make(&a);
        assert!(tokens.check(&a, &token));
        assert!(!tokens.check(&b, &token));
        assert!(!tokens.check(&a, &token[1..]));
        assert!(!tokens.check(&a, ""));
        assert!(!ConnectionTokens::new(SecretString::from("t")).check(&a, &token));
    }

    #[test]
    fn an_older_secret_still_checks_and_makes_no_more() {
        let id = ConnectionId::new("a=");
        let tokens = |secrets: &str| ConnectionTokens::new(SecretString::from(secrets));
        let old = tokens("old").make(&id);
        assert!(tokens("new,old").check(&id, &old));
        assert_eq!(tokens("new,old").make(&id), tokens("new").make(&id));
        assert!(!tokens("new").check(&id, &old));
        assert!(!tokens("new,old").check(&id, &tokens("new,old,").make(&ConnectionId::new("b="))));
    }

    #[test]
    fn a_list_of_secrets_has_no_empty_one() {
        for text in ["", ",", "a,", ",a"] {
            assert!(parse_secrets(text).is_err(), "case: {text}");
        }
        assert!(parse_secrets("a,b").is_ok());
    }
}
