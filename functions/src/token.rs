//! The two tokens: JWTs that say who somebody is, and connection tokens that say what is theirs.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use domain::{access::Principal, connection::ConnectionId};
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

/// Fewest bytes that a secret should have: as many as the hash has (RFC 7518, section 3.2).
pub const SAFE_SECRET_BYTES: usize = 32;

/// Makes and checks the tokens by which a client steers its connection over REST.
#[derive(Clone, Debug)]
pub struct ConnectionTokens {
    secret: SecretString,
}

impl ConnectionTokens {
    /// Tokens under this secret.
    pub fn new(secret: SecretString) -> Self {
        Self { secret }
    }

    /// The token of a connection: HMAC-SHA-256 of its id, in URL-safe base64.
    pub fn make(&self, id: &ConnectionId) -> String {
        URL_SAFE_NO_PAD.encode(self.mac(id).finalize().into_bytes())
    }

    /// Whether `token` is that of the connection, in a time that does not tell how much of it is.
    pub fn check(&self, id: &ConnectionId, token: &str) -> bool {
        URL_SAFE_NO_PAD.decode(token).is_ok_and(|token| self.mac(id).verify_slice(&token).is_ok())
    }

    fn mac(&self, id: &ConnectionId) -> Hmac<Sha256> {
        let secret = self.secret.expose_secret().as_bytes();
        let mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any size");
        mac.chain_update(b"headwater connection ").chain_update(id.as_str())
    }
}

/// What a JWT says. Classes come from `classes`, as we write them, or from what issuers commonly
/// call them; the first counts.
#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(default, alias = "class", alias = "cognito:groups")]
    classes: Classes,
    exp: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<i64>,
}

/// One class or several.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Classes {
    One(String),
    Several(Vec<String>),
}

impl Default for Classes {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

/// Why a JWT was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No secret is configured, so no token can be told from a forged one.
    #[error("tokens are not accepted here: HEADWATER_JWT_SECRET is not set")]
    NotConfigured,
    /// Forged, expired or not a JWT.
    #[error("token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Its times cannot be.
    #[error("token has an expiry that is no time")]
    Expiry,
}

/// Makes and checks JWTs signed with a shared secret (HS256).
#[derive(Clone, Debug)]
pub struct Jwt {
    secret: Option<SecretString>,
}

impl Jwt {
    /// Tokens under this secret; without one, every token is refused.
    pub fn new(secret: Option<SecretString>) -> Self {
        Self { secret }
    }

    /// Returns whose the token is.
    ///
    /// # Errors
    ///
    /// [`TokenError`] when it is forged, or expired at `now`.
    pub fn check(&self, token: &str, now: Timestamp) -> Result<Principal, TokenError> {
        let secret = self.secret.as_ref().ok_or(TokenError::NotConfigured)?;
        let key = DecodingKey::from_secret(secret.expose_secret().as_bytes());
        let mut validation = Validation::new(Algorithm::HS256);
        // The library reads the system's clock, and we are given the time.
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["exp", "sub"]);
        let claims = jsonwebtoken::decode::<Claims>(token, &key, &validation)
            .map_err(TokenError::Invalid)?
            .claims;
        if claims.exp <= now.as_second() {
            return Err(TokenError::Invalid(
                jsonwebtoken::errors::ErrorKind::ExpiredSignature.into(),
            ));
        }
        let class = match claims.classes {
            Classes::One(class) => Some(class),
            Classes::Several(classes) => classes.into_iter().next(),
        };
        Ok(Principal { id: claims.sub, class: class.unwrap_or_else(|| "member".to_owned()) })
    }

    /// Makes a token that is good for `term` from `now`.
    ///
    /// # Errors
    ///
    /// [`TokenError::NotConfigured`] without a secret.
    pub fn make(
        &self,
        principal: &Principal,
        term: Duration,
        now: Timestamp,
    ) -> Result<String, TokenError> {
        let secret = self.secret.as_ref().ok_or(TokenError::NotConfigured)?;
        let exp = now.checked_add(term).map_err(|_| TokenError::Expiry)?.as_second();
        let claims = Claims {
            sub: principal.id.clone(),
            classes: Classes::Several(vec![principal.class.clone()]),
            exp,
            iat: Some(now.as_second()),
        };
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key)
            .map_err(TokenError::Invalid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().expect("a time")
    }

    fn jwt(secret: &str) -> Jwt {
        Jwt::new(Some(SecretString::from(secret)))
    }

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
    fn a_token_is_good_until_it_expires() {
        let principal = Principal { id: "ann".into(), class: "trader".into() };
        let token = jwt("s").make(&principal, Duration::from_mins(1), now()).expect("a token");
        assert_eq!(jwt("s").check(&token, now()).expect("valid"), principal);
        let later = now() + Duration::from_mins(1);
        assert!(matches!(jwt("s").check(&token, later), Err(TokenError::Invalid(_))));
        assert!(matches!(jwt("t").check(&token, now()), Err(TokenError::Invalid(_))));
        assert!(matches!(Jwt::new(None).check(&token, now()), Err(TokenError::NotConfigured)));
    }

    #[test]
    fn the_class_is_found_under_its_common_names() {
        let key = EncodingKey::from_secret(b"s");
        let cases = [
            (r#""class":"trader""#, "trader"),
            (r#""classes":["trader","member"]"#, "trader"),
            (r#""cognito:groups":["trader"]"#, "trader"),
            (r#""classes":[]"#, "member"),
            (r#""scope":"x""#, "member"),
        ];
        for (claim, expected) in cases {
            let json = format!(r#"{{"sub":"ann","exp":9999999999,{claim}}}"#);
            let claims: serde_json::Value = serde_json::from_str(&json).expect("claims");
            let token = jsonwebtoken::encode(&Header::default(), &claims, &key).expect("a token");
            let principal = jwt("s").check(&token, now()).expect("valid");
            assert_eq!(principal.class, expected, "case: {claim}");
        }
    }

    #[test]
    fn what_nobody_signed_is_refused() {
        let part = |json: &str| URL_SAFE_NO_PAD.encode(json);
        let claims = part(r#"{"sub":"ann","exp":9999999999,"classes":["trader"]}"#);
        let unsigned = format!("{}.{claims}.", part(r#"{"alg":"none"}"#));
        let other = format!("{}.{claims}.{}", part(r#"{"alg":"HS512"}"#), part("x"));
        for token in ["", "a.b.c", unsigned.as_str(), other.as_str()] {
            assert!(jwt("s").check(token, now()).is_err(), "case: {token}");
        }
    }
}
