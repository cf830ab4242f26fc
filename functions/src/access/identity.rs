//! Identities: JWTs that are signed with a shared secret (HS256) or by an issuer (RS256, ES256).

use std::{sync::Arc, time::Duration};

use domain::access::{Principal, PrincipalError};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use crate::access::{
    jwks::{Jwks, JwksError},
    secrets::{parse_secrets, secrets},
};

/// Longest token, in bytes. API Gateway accepts 10,240 bytes of headers.
const MAX_TOKEN_BYTES: usize = 8_192;

/// How far the issuer's clock can be ahead.
const LEEWAY_S: f64 = 10.0;

/// How tokens are checked.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Shared secret of HS256 tokens, at least 32 random bytes. To rotate it, set the new secret
    /// followed by a comma and the old one. Without a secret and without an issuer, all tokens are
    /// rejected and all clients are anonymous.
    #[arg(long, env = "HEADWATER_JWT_SECRET", hide_env_values = true, value_parser = parse_secrets)]
    pub jwt_secret: Option<SecretString>,

    /// URL of the issuer's keys (RS256, ES256), such as
    /// `https://cognito-idp.REGION.amazonaws.com/POOL/.well-known/jwks.json`. Requires the issuer and
    /// the audience to be set.
    #[arg(long, env = "HEADWATER_JWKS_URL", value_parser = parse_url, requires = "jwt_issuer", requires = "jwt_audience")]
    pub jwks_url: Option<reqwest::Url>,

    /// Required `iss` claim of a token. By default any value is accepted.
    #[arg(long, env = "HEADWATER_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,

    /// Accepted values of the `aud` claim, or of `client_id` in a token without `aud`, separated by
    /// commas. By default tokens with an `aud` claim are rejected.
    #[arg(long, env = "HEADWATER_JWT_AUDIENCE", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,

    /// Claims that contain the class, or a list of classes, separated by commas; the first one that a
    /// token has is used. `a.b` means `b` inside `a`.
    #[arg(
        long,
        env = "HEADWATER_JWT_CLASS_CLAIM",
        value_delimiter = ',',
        default_value = "classes,class,cognito:groups"
    )]
    pub jwt_class_claim: Vec<String>,

    /// Class of a principal whose token does not name one.
    #[arg(long, env = "HEADWATER_JWT_DEFAULT_CLASS", default_value = "member")]
    pub jwt_default_class: String,
}

impl Options {
    /// Returns whether tokens can be checked at all. If not, all clients are anonymous.
    pub fn accepts_tokens(&self) -> bool {
        self.jwt_secret.is_some() || self.jwks_url.is_some()
    }
}

fn parse_url(text: &str) -> Result<reqwest::Url, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err("not an http or https URL".to_owned()),
    }
}

/// A principal that a token identifies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The principal.
    pub principal: Principal,
    /// When the token expires.
    pub expires_at: Timestamp,
}

/// Why a token was rejected.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// No secret and no issuer is configured.
    #[error("tokens are not accepted: neither HEADWATER_JWT_SECRET nor HEADWATER_JWKS_URL is set")]
    NotConfigured,
    /// It is not a JWT, or its signature is not valid.
    #[error("token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// It is longer than `MAX_TOKEN_BYTES`.
    #[error("token is longer than {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// Its signature algorithm is not accepted.
    #[error("token is signed with {0:?}, which is not accepted")]
    Algorithm(Algorithm),
    /// Its `crit` header requires an extension, and none is supported.
    #[error("token has critical headers")]
    Critical,
    /// The issuer does not publish the key.
    #[error("token is signed with a key that the issuer does not publish")]
    UnknownKey,
    /// A claim is missing, malformed, or does not have a required value.
    #[error("claim {0} of the token is missing or not valid")]
    Claim(&'static str),
    /// It has expired.
    #[error("token has expired")]
    Expired,
    /// Its `nbf` claim is in the future.
    #[error("token is not valid yet")]
    NotYet,
    /// Its subject or a class cannot be used in the rules.
    #[error("token does not name a valid principal")]
    Principal(#[from] PrincipalError),
    /// The issuer's keys could not be loaded.
    #[error("could not load the keys of the issuer")]
    IssuerUnavailable(#[source] Arc<JwksError>),
}

/// Checks tokens.
#[derive(Debug)]
pub struct Tokens {
    options: Options,
    jwks: Option<Jwks>,
}

impl Tokens {
    /// Returns a checker that loads the keys of the issuer for the first token.
    pub fn new(options: Options) -> Self {
        let jwks = options.jwks_url.clone().map(Jwks::new);
        Self { options, jwks }
    }

    /// Returns the identity that a token proves. `sender` is who sent it: the name under which the requests of a
    /// caller are counted. Each has a budget of requests for keys that the issuer has not published yet.
    ///
    /// # Errors
    ///
    /// [`TokenError`] when the token is forged, is meant for another audience, or is not valid at `now`.
    pub async fn check(
        &self,
        token: &str,
        sender: &str,
        now: Timestamp,
    ) -> Result<Identity, TokenError> {
        if !self.options.accepts_tokens() {
            return Err(TokenError::NotConfigured);
        }
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::TooLong);
        }
        let header = jsonwebtoken::decode_header(token).map_err(TokenError::Invalid)?;
        if header.crit.is_some() {
            return Err(TokenError::Critical);
        }
        // Each kind of key has its own algorithms. A public key must never serve as a shared secret.
        let keys = match (header.alg, &self.options.jwt_secret, &self.jwks) {
            (Algorithm::HS256, Some(list), _) => {
                secrets(list).map(|it| DecodingKey::from_secret(it.as_bytes())).collect()
            }
            (alg @ (Algorithm::RS256 | Algorithm::ES256), _, Some(jwks)) => {
                let keys = jwks.find(header.kid.as_deref(), alg, sender).await;
                keys.map_err(TokenError::IssuerUnavailable)?
            }
            (alg, _, _) => return Err(TokenError::Algorithm(alg)),
        };
        let claims = verify(token, header.alg, &keys)?;
        self.identity(&claims, now)
    }

    fn identity(
        &self,
        claims: &Map<String, Value>,
        now: Timestamp,
    ) -> Result<Identity, TokenError> {
        let seconds = |name| claims.get(name).map(Value::as_f64);
        let exp = seconds("exp").flatten().ok_or(TokenError::Claim("exp"))?;
        #[expect(clippy::cast_possible_truncation, reason = "the conversion saturates")]
        let expires_at =
            Timestamp::from_second(exp.floor() as i64).map_err(|_| TokenError::Claim("exp"))?;
        if expires_at <= now {
            return Err(TokenError::Expired);
        }
        let not_before = match seconds("nbf") {
            None => f64::NEG_INFINITY,
            Some(nbf) => nbf.ok_or(TokenError::Claim("nbf"))?,
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are small enough")]
        if not_before > now.as_second() as f64 + LEEWAY_S {
            return Err(TokenError::NotYet);
        }
        if let Some(issuer) = &self.options.jwt_issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(TokenError::Claim("iss"));
        }
        if !is_meant_for(claims, &self.options.jwt_audience) {
            return Err(TokenError::Claim("aud"));
        }
        let subject = claims.get("sub").and_then(Value::as_str).ok_or(TokenError::Claim("sub"))?;
        let found = self.options.jwt_class_claim.iter().find_map(|name| claim(claims, name));
        let mut classes: Vec<&str> = match found {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::String(class)) => vec![class],
            Some(Value::Array(classes)) => {
                let texts = classes.iter().map(Value::as_str).collect::<Option<_>>();
                texts.ok_or(TokenError::Claim("class"))?
            }
            Some(_) => return Err(TokenError::Claim("class")),
        };
        if classes.is_empty() {
            classes.push(&self.options.jwt_default_class);
        }
        Ok(Identity { principal: Principal::named(subject, classes)?, expires_at })
    }
}

/// Returns whether a token is meant for one of the audiences. A token without `aud` is meant for
/// everyone, unless audiences are configured; then `client_id` counts, as in Amazon Cognito's access tokens.
fn is_meant_for(claims: &Map<String, Value>, audiences: &[String]) -> bool {
    let is_listed =
        |value: &Value| value.as_str().is_some_and(|text| audiences.iter().any(|it| it == text));
    match claims.get("aud") {
        None => audiences.is_empty() || claims.get("client_id").is_some_and(is_listed),
        Some(Value::Array(all)) => all.iter().any(is_listed),
        Some(one) => is_listed(one),
    }
}

/// Returns a claim by its name or its path.
fn claim<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    claims.get(name).or_else(|| {
        let mut path = name.split('.');
        let first = claims.get(path.next()?)?;
        path.try_fold(first, |value, part| value.get(part))
    })
}

fn verify(
    token: &str,
    algorithm: Algorithm,
    keys: &[DecodingKey],
) -> Result<Map<String, Value>, TokenError> {
    let mut validation = Validation::new(algorithm);
    // The library checks only the signature. The claims are checked with the caller's time.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let mut rejection = TokenError::UnknownKey;
    for key in keys {
        match jsonwebtoken::decode(token, key, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                rejection = TokenError::Invalid(error);
            }
            Err(error) => return Err(TokenError::Invalid(error)),
        }
    }
    Err(rejection)
}

/// Makes an HS256 token that is valid for `term` from `now`, signed with the first of the secrets.
///
/// # Errors
///
/// [`TokenError`] when the token would expire too far in the future.
pub fn make(
    secret: &SecretString,
    principal: &Principal,
    term: Duration,
    now: Timestamp,
    issuer: Option<&str>,
    audience: Option<&str>,
) -> Result<String, TokenError> {
    let exp = now.checked_add(term).map_err(|_| TokenError::Claim("exp"))?.as_second();
    let mut claims = json!({
        "sub": principal.id,
        "classes": principal.classes().collect::<Vec<_>>(),
        "exp": exp,
        "iat": now.as_second(),
    });
    for (name, value) in [("iss", issuer), ("aud", audience)] {
        if let Some(value) = value {
            claims[name] = value.into();
        }
    }
    let key = EncodingKey::from_secret(secrets(secret).next().unwrap_or_default().as_bytes());
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(TokenError::Invalid)
}

#[cfg(test)]
mod tests;
