//! Who somebody is: JWTs, signed with a shared secret (HS256) or by an issuer (RS256, ES256).

use std::time::Duration;

use domain::access::{Principal, PrincipalError};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, errors::ErrorKind};
use secrecy::SecretString;
use serde_json::{Map, Value, json};

use crate::{
    access::jwks::{Jwks, JwksError},
    access::token::{parse_secrets, secrets},
};

/// Longest token, in bytes: API Gateway takes 10,240 bytes of headers.
const MAX_TOKEN_BYTES: usize = 8_192;

/// How far ahead the issuer's clock may be.
const LEEWAY_S: f64 = 10.0;

/// How tokens are checked.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Options {
    /// Shared secret of HS256 tokens, best of 32 random bytes or more; while it changes, the new
    /// one and the old one after a comma. Without it and without an issuer every token is refused
    /// and everybody is anonymous.
    #[arg(long, env = "HEADWATER_JWT_SECRET", hide_env_values = true, value_parser = parse_secrets)]
    pub jwt_secret: Option<SecretString>,

    /// Where the issuer publishes its keys (RS256, ES256), such as
    /// `https://cognito-idp.REGION.amazonaws.com/POOL/.well-known/jwks.json`. Wants the issuer and
    /// the audience, too.
    #[arg(long, env = "HEADWATER_JWKS_URL", value_parser = parse_url, requires = "jwt_issuer", requires = "jwt_audience")]
    pub jwks_url: Option<reqwest::Url>,

    /// What tokens must say in `iss`; without it, anything.
    #[arg(long, env = "HEADWATER_JWT_ISSUER")]
    pub jwt_issuer: Option<String>,

    /// What tokens must say in `aud`, or in `client_id` where they have no `aud`; one of a comma
    /// list. Without it, tokens that are meant for somebody are refused.
    #[arg(long, env = "HEADWATER_JWT_AUDIENCE", value_delimiter = ',')]
    pub jwt_audience: Vec<String>,

    /// Where tokens name classes, in a text or a list of them: the first of a comma list that a
    /// token has. `a.b` is `b` in `a`.
    #[arg(
        long,
        env = "HEADWATER_JWT_CLASS_CLAIM",
        value_delimiter = ',',
        default_value = "classes,class,cognito:groups"
    )]
    pub jwt_class_claim: Vec<String>,

    /// The class of somebody whose token names none.
    #[arg(long, env = "HEADWATER_JWT_DEFAULT_CLASS", default_value = "member")]
    pub jwt_default_class: String,
}

impl Options {
    /// Whether any token can be good, and so whether somebody can be told from somebody else.
    pub fn accepts_tokens(&self) -> bool {
        self.jwt_secret.is_some() || self.jwks_url.is_some()
    }
}

fn parse_url(text: &str) -> Result<reqwest::Url, String> {
    match reqwest::Url::parse(text) {
        Ok(url) if url.has_host() && matches!(url.scheme(), "http" | "https") => Ok(url),
        _ => Err("this is no http or https address".to_owned()),
    }
}

/// Somebody, as a token says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Whom it names.
    pub principal: Principal,
    /// Until when.
    pub expires_at: Timestamp,
}

/// Why a token was refused.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Nothing is configured by which a token could be told from a forged one.
    #[error(
        "tokens are not accepted here: neither HEADWATER_JWT_SECRET nor HEADWATER_JWKS_URL is set"
    )]
    NotConfigured,
    /// Not a JWT, or not one of ours.
    #[error("token is not valid")]
    Invalid(#[source] jsonwebtoken::errors::Error),
    /// Longer than `MAX_TOKEN_BYTES`.
    #[error("token is over {MAX_TOKEN_BYTES} bytes")]
    TooLong,
    /// It is signed in a way that is not taken here.
    #[error("token is signed with {0:?}, which is not taken here")]
    Algorithm(Algorithm),
    /// It wants something to be understood that is not.
    #[error("token has critical headers")]
    Critical,
    /// No key of the issuer has that name.
    #[error("token is signed with a key that the issuer does not publish")]
    UnknownKey,
    /// A claim is missing or says something else than it must.
    #[error("token has no good {0}")]
    Claim(&'static str),
    /// It was good until some time ago.
    #[error("token has expired")]
    Expired,
    /// It will be good.
    #[error("token is not good yet")]
    NotYet,
    /// It names somebody whom the rules could mistake.
    #[error("token names nobody that there can be")]
    Principal(#[from] PrincipalError),
    /// The issuer's keys are not known, and cannot be had.
    #[error("keys of the issuer cannot be had")]
    IssuerAway(#[source] JwksError),
}

/// Checks tokens.
#[derive(Debug)]
pub struct Tokens {
    options: Options,
    jwks: Option<Jwks>,
}

impl Tokens {
    /// A checker; it asks the issuer when the first token comes.
    pub fn new(options: Options) -> Self {
        let jwks = options.jwks_url.clone().map(Jwks::new);
        Self { options, jwks }
    }

    /// Returns whose a token is.
    ///
    /// # Errors
    ///
    /// [`TokenError`] when it is forged, meant for others, or not good at `now`.
    pub async fn check(&self, token: &str, now: Timestamp) -> Result<Identity, TokenError> {
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
        // Each kind of key goes with its own algorithms: a public key is no shared secret.
        let keys = match (header.alg, &self.options.jwt_secret, &self.jwks) {
            (Algorithm::HS256, Some(list), _) => {
                secrets(list).map(|it| DecodingKey::from_secret(it.as_bytes())).collect()
            }
            (alg @ (Algorithm::RS256 | Algorithm::ES256), _, Some(jwks)) => {
                let keys = jwks.find(header.kid.as_deref(), alg).await;
                keys.map_err(TokenError::IssuerAway)?
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
        #[expect(clippy::cast_possible_truncation, reason = "a conversion that saturates is fine")]
        let expires_at =
            Timestamp::from_second(exp.floor() as i64).map_err(|_| TokenError::Claim("exp"))?;
        if expires_at <= now {
            return Err(TokenError::Expired);
        }
        let not_before = match seconds("nbf") {
            None => f64::NEG_INFINITY,
            Some(nbf) => nbf.ok_or(TokenError::Claim("nbf"))?,
        };
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 fit")]
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

/// Whether a token that says `aud` is meant for one of us. One that does not is meant for anybody,
/// unless we are somebody; Amazon Cognito's access tokens then say `client_id`.
fn is_meant_for(claims: &Map<String, Value>, us: &[String]) -> bool {
    let is_us = |value: &Value| value.as_str().is_some_and(|text| us.iter().any(|it| it == text));
    match claims.get("aud") {
        None => us.is_empty() || claims.get("client_id").is_some_and(is_us),
        Some(Value::Array(all)) => all.iter().any(is_us),
        Some(one) => is_us(one),
    }
}

/// A claim by its name, or by its path.
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
    // The library checks the signature. The claims are checked against the time that we are given.
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    let mut refused = TokenError::UnknownKey;
    for key in keys {
        match jsonwebtoken::decode(token, key, &validation) {
            Ok(decoded) => return Ok(decoded.claims),
            Err(error) if *error.kind() == ErrorKind::InvalidSignature => {
                refused = TokenError::Invalid(error);
            }
            Err(error) => return Err(TokenError::Invalid(error)),
        }
    }
    Err(refused)
}

/// Makes an HS256 token that is good for `term` from `now`, under the first of the secrets.
///
/// # Errors
///
/// [`TokenError`] when the term is no term.
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
