//! The keys of an issuer, as it publishes them (RFC 7517).

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws::error::{BoxError, Chain};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use reqwest::{Client, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::{sync::Mutex, time::Instant};
use tracing::{info, warn};

/// How long keys are good before they are asked for again.
const KEEP: Duration = Duration::from_mins(10);

/// How long the issuer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Tokens with made-up keys must not become requests to the issuer: this many in a row, and then
/// one each interval.
const BURST: u32 = 4;
const INTERVAL: Duration = Duration::from_secs(15);

/// Most bytes of what an issuer publishes.
const MAX_BYTES: usize = 256 * 1024;

/// Most keys of an issuer that are kept.
const MAX_KEYS: usize = 64;

/// Why keys could not be had.
#[derive(Debug, thiserror::Error)]
pub enum JwksError {
    /// The issuer gave no good answer.
    #[error("request to the issuer failed")]
    Request(#[source] BoxError),
    /// What it published is over `MAX_BYTES`.
    #[error("the issuer publishes over {MAX_BYTES} bytes")]
    TooLarge,
    /// It was asked a moment ago, to no avail.
    #[error("the issuer was asked a moment ago")]
    Asked,
}

/// The keys of one issuer.
#[derive(Debug)]
pub struct Jwks {
    url: Url,
    http: Client,
    known: RwLock<Option<Arc<Known>>>,
    asking: Mutex<Budget>,
}

#[derive(Debug)]
struct Known {
    keys: Vec<Key>,
    since: Instant,
}

#[derive(Clone, Debug)]
struct Key {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

/// How often the issuer may be asked.
#[derive(Debug)]
struct Budget {
    left: u32,
    since: Instant,
}

/// Keys of kinds that are not known here are passed over.
#[derive(Deserialize)]
struct Published {
    keys: Vec<Value>,
}

impl Jwks {
    /// Keys that are published at `url`. They are asked for when the first is wanted.
    pub fn new(url: Url) -> Self {
        let loopback = url
            .host_str()
            .is_some_and(|host| host == "localhost" || host.starts_with("127.") || host == "[::1]");
        if url.scheme() == "http" && !loopback {
            warn!("HEADWATER_JWKS_URL is not https: whoever is on the way can make tokens");
        }
        let http = Client::builder().timeout(PATIENCE).redirect(redirect::Policy::none());
        Self {
            url,
            http: http.build().expect("a client without options that can fail"),
            known: RwLock::default(),
            asking: Mutex::new(Budget { left: BURST, since: Instant::now() }),
        }
    }

    /// Returns the keys that a token can be signed with: the one with its id, or without an id all
    /// of its algorithm. Asks the issuer where none is known, or what is known is old.
    ///
    /// # Errors
    ///
    /// [`JwksError`] when no keys are known and none can be had.
    pub async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<Vec<DecodingKey>, JwksError> {
        let known = self.known();
        let found = known.as_ref().map(|known| known.find(id, algorithm)).unwrap_or_default();
        let is_fresh = known.as_ref().is_some_and(|known| known.since.elapsed() < KEEP);
        if is_fresh && !found.is_empty() {
            return Ok(found);
        }
        match self.ask(known.as_ref()).await {
            Ok(known) => Ok(known.find(id, algorithm)),
            Err(error) => {
                // An issuer that is away does not make its keys bad.
                if known.is_none() {
                    return Err(error);
                }
                match error {
                    JwksError::Asked => {}
                    error => warn!(error = %Chain(&error), "keys of the issuer are old"),
                }
                Ok(found)
            }
        }
    }

    fn known(&self) -> Option<Arc<Known>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Asks the issuer, unless somebody else has since `before`, or it is asked too often.
    async fn ask(&self, before: Option<&Arc<Known>>) -> Result<Arc<Known>, JwksError> {
        let mut budget = self.asking.lock().await;
        if let Some(known) = self.known()
            && before.is_none_or(|before| !Arc::ptr_eq(before, &known))
        {
            return Ok(known);
        }
        if !budget.spend() {
            return Err(JwksError::Asked);
        }
        // Seldom awaited, and large.
        let keys = Box::pin(self.fetch()).await?;
        info!(keys = keys.len(), "keys of the issuer read");
        let known = Arc::new(Known { keys, since: Instant::now() });
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Some(known.clone());
        Ok(known)
    }

    async fn fetch(&self) -> Result<Vec<Key>, JwksError> {
        let failed = |error: reqwest::Error| JwksError::Request(error.into());
        let answer = self.http.get(self.url.clone()).send().await.map_err(failed)?;
        let mut answer = answer.error_for_status().map_err(failed)?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            if body.len() + chunk.len() > MAX_BYTES {
                return Err(JwksError::TooLarge);
            }
            body.extend_from_slice(&chunk);
        }
        read(&body).map_err(|error| JwksError::Request(error.into()))
    }
}

fn read(body: &[u8]) -> serde_json::Result<Vec<Key>> {
    let published: Published = serde_json::from_slice(body)?;
    let keys = published.keys.into_iter().filter_map(|key| Key::read(key).ok().flatten());
    Ok(keys.take(MAX_KEYS).collect())
}

impl Known {
    fn find(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<DecodingKey> {
        let fits = |key: &&Key| {
            key.algorithm == algorithm && id.is_none_or(|id| key.id.as_deref() == Some(id))
        };
        self.keys.iter().filter(fits).map(|key| key.key.clone()).collect()
    }
}

impl Key {
    /// A key that signs in a way that is taken here. Its algorithm is what its kind says, and what
    /// a token says counts for nothing.
    fn read(value: Value) -> Result<Option<Self>, BoxError> {
        let jwk: Jwk = serde_json::from_value(value)?;
        let algorithm = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => Algorithm::RS256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => {
                Algorithm::ES256
            }
            _ => return Ok(None),
        };
        let says = match jwk.common.key_algorithm {
            None => algorithm,
            Some(KeyAlgorithm::RS256) => Algorithm::RS256,
            Some(KeyAlgorithm::ES256) => Algorithm::ES256,
            Some(_) => return Ok(None),
        };
        let signs = matches!(jwk.common.public_key_use, None | Some(PublicKeyUse::Signature));
        if says != algorithm || !signs {
            return Ok(None);
        }
        let key = DecodingKey::from_jwk(&jwk)?;
        Ok(Some(Self { id: jwk.common.key_id, algorithm, key }))
    }
}

impl Budget {
    fn spend(&mut self) -> bool {
        while self.left < BURST && self.since.elapsed() >= INTERVAL {
            self.left += 1;
            self.since += INTERVAL;
        }
        if self.left == BURST {
            self.since = Instant::now();
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}
