//! The keys that a token issuer publishes (RFC 7517).

use std::{sync::Arc, time::Duration};

use domain::{
    chain::{BoxError, Chain},
    pace::TokenBucket,
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use parking_lot::RwLock;
use reqwest::{Client, Response, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use tracing::{info, warn};

/// How long keys are cached.
const CACHE_FOR: Duration = Duration::from_mins(10);

/// Time limit for a request to the issuer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Tokens with unknown keys must not flood the issuer with requests: it gets at most this many in a row,
/// and then one per interval.
const BURST: u32 = 4;
const INTERVAL: Duration = Duration::from_secs(15);

/// Largest key set, in bytes.
const MAX_BYTES: usize = 256 * 1024;

/// Largest number of keys that are kept.
const MAX_KEYS: usize = 64;

/// Why the keys of the issuer could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The issuer did not return a key set.
    #[error("request to the issuer failed")]
    Request(#[source] BoxError),
    /// The key set is larger than `MAX_BYTES`.
    #[error("the key set of the issuer is larger than {MAX_BYTES} bytes")]
    TooLarge,
    /// Recent requests failed, and the next one has to wait.
    #[error("too many requests to the issuer")]
    RateLimited,
}

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Jwks {
    url: Url,
    http: Client,
    key_set: RwLock<Option<Arc<KeySet>>>,
    /// The rate limit of requests; held during a request.
    pace: Mutex<TokenBucket>,
}

#[derive(Debug)]
struct KeySet {
    keys: Vec<Key>,
    loaded_at: Instant,
}

#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// The published form. Keys of unknown types are skipped.
#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl Jwks {
    /// Returns the keys that are published at `url`. They are loaded on first use.
    pub(super) fn new(url: Url) -> Self {
        let loopback = url
            .host_str()
            .is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
        if url.scheme() == "http" && !loopback {
            warn!(
                "HEADWATER_JWKS_URL is not https: an attacker on the network path can forge tokens"
            );
        }
        let http = Client::builder().timeout(REQUEST_TIMEOUT).redirect(redirect::Policy::none());
        Self {
            url,
            http: http.build().expect("none of the options can fail"),
            key_set: RwLock::default(),
            pace: Mutex::new(TokenBucket::every(INTERVAL, BURST)),
        }
    }

    /// Returns the keys that can verify a token: the one with its key id, or all keys of its algorithm
    /// if it has no key id. Loads the keys if none matches or the cache is old.
    ///
    /// # Errors
    ///
    /// [`JwksError`] when no keys are cached and they could not be loaded.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, JwksError> {
        let cached = self.key_set.read().clone();
        let found = cached.as_ref().map(|keys| keys.find(id, algorithm)).unwrap_or_default();
        let is_fresh = cached.as_ref().is_some_and(|keys| keys.loaded_at.elapsed() < CACHE_FOR);
        if is_fresh && !found.is_empty() {
            return Ok(found);
        }
        match self.load(cached.as_ref()).await {
            Ok(keys) => Ok(keys.find(id, algorithm)),
            // The keys stay valid while the issuer is unavailable.
            Err(error) if cached.is_some() => {
                match error {
                    JwksError::RateLimited => {}
                    error => warn!(
                        error = %Chain(&error),
                        "could not reload the keys of the issuer; keeping the previous ones"
                    ),
                }
                Ok(found)
            }
            Err(error) => Err(error),
        }
    }

    /// Loads the keys, unless another task has replaced `before`, or requests are too frequent.
    async fn load(&self, before: Option<&Arc<KeySet>>) -> Result<Arc<KeySet>, JwksError> {
        let mut pace = self.pace.lock().await;
        if let Some(keys) = self.key_set.read().clone()
            && before.is_none_or(|before| !Arc::ptr_eq(before, &keys))
        {
            return Ok(keys);
        }
        pace.take(Instant::now().into_std()).map_err(|_| JwksError::RateLimited)?;
        // Rarely awaited, and large.
        let keys = Box::pin(self.fetch()).await?;
        info!(keys = keys.len(), "loaded the keys of the issuer");
        let key_set = Arc::new(KeySet { keys, loaded_at: Instant::now() });
        *self.key_set.write() = Some(key_set.clone());
        Ok(key_set)
    }

    async fn fetch(&self) -> Result<Vec<Key>, JwksError> {
        let response = self
            .http
            .get(self.url.clone())
            .send()
            .await
            .and_then(Response::error_for_status)
            .map_err(|error| JwksError::Request(error.into()))?;
        let body = Limited::new(reqwest::Body::from(response), MAX_BYTES);
        let bytes = body.collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                JwksError::TooLarge
            } else {
                JwksError::Request(error)
            }
        })?;
        read(&bytes.to_bytes()).map_err(|error| JwksError::Request(error.into()))
    }
}

fn read(body: &[u8]) -> serde_json::Result<Vec<Key>> {
    let published: Published = serde_json::from_slice(body)?;
    let keys = published.keys.into_iter().filter_map(|key| Key::read(key).ok().flatten());
    Ok(keys.take(MAX_KEYS).collect())
}

impl KeySet {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
        let fits = |key: &&Key| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.keys.iter().filter(fits).map(|key| key.key.clone()).collect()
    }
}

impl Key {
    /// Reads a key of a supported algorithm. The type of the key determines the algorithm; the header
    /// of a token does not.
    fn read(value: Value) -> Result<Option<Self>, BoxError> {
        let jwk: Jwk = serde_json::from_value(value)?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            _ => return Ok(None),
        };
        let declared = match jwk.common.key_algorithm {
            None => algorithm,
            Some(KeyAlgorithm::RS256) => Algorithm::RS256,
            Some(KeyAlgorithm::ES256) => Algorithm::ES256,
            Some(_) => return Ok(None),
        };
        let is_for_signatures =
            matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        if declared != algorithm || !is_for_signatures {
            return Ok(None);
        }
        let key = DecodingKey::from_jwk(&jwk)?;
        Ok(Some(Self { id: jwk.common.key_id, algorithm, key }))
    }
}
