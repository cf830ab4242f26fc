//! Connection tokens, which prove to the REST interface that a client owns a connection.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::connection::ConnectionId;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::SecretString;
use sha2::Sha256;

use crate::access::secrets::secrets;

/// Makes and checks connection tokens.
#[derive(Clone, Debug)]
pub struct ConnectionTokens {
    secrets: SecretString,
}

impl ConnectionTokens {
    /// Makes and checks tokens with these secrets, as `parse_secrets` returns them.
    pub fn new(secrets: SecretString) -> Self {
        Self { secrets }
    }

    /// Returns the token of a connection: the HMAC-SHA-256 of its id, in URL-safe base64.
    pub fn make(&self, id: &ConnectionId) -> String {
        let newest = secrets(&self.secrets).next().unwrap_or_default();
        URL_SAFE_NO_PAD.encode(mac(newest, id).finalize().into_bytes())
    }

    /// Returns whether `token` belongs to the connection. The comparison takes constant time.
    pub fn check(&self, id: &ConnectionId, token: &str) -> bool {
        let Ok(token) = URL_SAFE_NO_PAD.decode(token) else { return false };
        secrets(&self.secrets).any(|secret| mac(secret, id).verify_slice(&token).is_ok())
    }
}

fn mac(secret: &str, id: &ConnectionId) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(secret.as_bytes())
        .expect("HMAC accepts keys of any size")
        .chain_update(b"headwater connection ")
        .chain_update(id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_token_is_valid_only_for_its_connection() {
        let tokens = ConnectionTokens::new(SecretString::from("s"));
        let a = ConnectionId::new("a=");
        let token = tokens.make(&a);
        assert!(tokens.check(&a, &token));
        assert!(!tokens.check(&ConnectionId::new("b="), &token));
        assert!(!tokens.check(&a, &token[1..]));
        assert!(!tokens.check(&a, ""));
        assert!(!ConnectionTokens::new(SecretString::from("t")).check(&a, &token));
    }

    #[test]
    fn an_older_secret_verifies_but_does_not_sign() {
        let id = ConnectionId::new("a=");
        let tokens = |secrets: &str| ConnectionTokens::new(SecretString::from(secrets));
        let old = tokens("old").make(&id);
        assert!(tokens("new,old").check(&id, &old));
        assert_eq!(tokens("new,old").make(&id), tokens("new").make(&id));
        assert!(!tokens("new").check(&id, &old));
        assert!(!tokens("new,old").check(&id, &tokens("new,old,").make(&ConnectionId::new("b="))));
    }
}
