//! The keys that a token issuer publishes (RFC 7517).

use std::{collections::HashMap, sync::Arc, time::Duration};

use domain::{
    chain::{BoxError, Chain},
    pace::TokenBucket,
};
use futures_util::{
    FutureExt as _,
    future::{self, BoxFuture, Shared},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse},
};
use parking_lot::{Mutex, RwLock};
use reqwest::{Client, Response, Url, redirect};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    task::JoinError,
    time::{self, Instant},
};
use tracing::{info, warn};

/// How long keys are cached.
const CACHE_FOR: Duration = Duration::from_mins(10);

/// Time limit for a request to the issuer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// How long a check that has a key waits for newer keys. Lambda stops a process between two invocations, so the
/// keys have to arrive during one.
const RELOAD_WITHIN: Duration = Duration::from_millis(300);

/// Tokens with unknown keys must not flood the issuer with requests: for one sender it gets at most this many in a
/// row, and then one per interval.
const BURST: u32 = 4;
const INTERVAL: Duration = Duration::from_secs(15);

/// The same for all senders together.
const BURST_OF_ALL: u32 = 16;
const INTERVAL_OF_ALL: Duration = Duration::from_secs(3);

/// Most senders that are remembered. Beyond it, each has its burst again.
const MAX_SENDERS: usize = 10_000;

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

/// The keys of one issuer. Only a check for which no cached key fits waits long for the issuer.
#[derive(Debug)]
pub(super) struct Jwks {
    issuer: Arc<Issuer>,
    state: Mutex<State>,
}

/// Where the keys are published.
#[derive(Debug)]
struct Issuer {
    url: Url,
    http: Client,
    key_set: RwLock<Option<Arc<KeySet>>>,
}

/// The requests to the issuer.
#[derive(Debug)]
struct State {
    /// By sender of tokens: its requests.
    senders: HashMap<String, TokenBucket>,
    all: TokenBucket,
    /// The request that has not ended. All checks that need it share it.
    loading: Option<Loading>,
}

/// Ends when the keys are loaded.
type Loading = Shared<BoxFuture<'static, Result<(), Arc<JwksError>>>>;

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
        let http = http.build().expect("none of the options can fail");
        let issuer = Arc::new(Issuer { url, http, key_set: RwLock::default() });
        let all = TokenBucket::every(INTERVAL_OF_ALL, BURST_OF_ALL);
        let state = State { senders: HashMap::new(), all, loading: None };
        Self { issuer, state: Mutex::new(state) }
    }

    /// Returns the keys that can verify a token: the one with its key id, or all keys of its algorithm
    /// if it has no key id. Loads the keys if none matches or the cache is old. `sender` is who sent the token.
    ///
    /// # Errors
    ///
    /// [`JwksError`] when no keys are cached and they could not be loaded.
    pub(super) async fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
        sender: &str,
    ) -> Result<Vec<DecodingKey>, Arc<JwksError>> {
        let cached = self.issuer.key_set.read().clone();
        let found = cached.as_ref().map(|keys| keys.find(id, algorithm)).unwrap_or_default();
        let is_fresh = cached.as_ref().is_some_and(|keys| keys.loaded_at.elapsed() < CACHE_FOR);
        if is_fresh && !found.is_empty() {
            return Ok(found);
        }
        let loading = self.load(cached.as_ref(), sender);
        let loaded = match found.is_empty() {
            true => loading.await,
            false => time::timeout(RELOAD_WITHIN, loading).await.unwrap_or(Ok(())),
        };
        let newest = self.issuer.key_set.read().clone();
        match (newest, loaded) {
            // The keys stay valid while the issuer is unavailable.
            (Some(keys), _) => Ok(keys.find(id, algorithm)),
            (None, Err(error)) => Err(error),
            (None, Ok(())) => Ok(Vec::new()),
        }
    }

    /// Returns when the keys are loaded that replace `before`. Joins the request that is under way, if there
    /// is one. It goes on when nobody waits for it.
    fn load(&self, before: Option<&Arc<KeySet>>, sender: &str) -> Loading {
        let mut state = self.state.lock();
        if let Some(loading) = state.loading.clone().filter(|loading| loading.peek().is_none()) {
            return loading;
        }
        let is_replaced = match (before, &*self.issuer.key_set.read()) {
            (Some(before), Some(keys)) => !Arc::ptr_eq(before, keys),
            (None, Some(_)) => true,
            (_, None) => false,
        };
        if is_replaced {
            return future::ready(Ok(())).boxed().shared();
        }
        if !state.may_request(sender, Instant::now().into_std()) {
            return future::ready(Err(Arc::new(JwksError::RateLimited))).boxed().shared();
        }
        let issuer = self.issuer.clone();
        let task = tokio::spawn(async move { issuer.load().await.map_err(Arc::new) });
        let ended = async {
            match task.await.map_err(JoinError::try_into_panic) {
                Ok(loaded) => loaded,
                Err(Ok(panic)) => std::panic::resume_unwind(panic),
                // The process ends.
                Err(Err(_)) => Ok(()),
            }
        };
        let loading = ended.boxed().shared();
        state.loading = Some(loading.clone());
        loading
    }
}

impl State {
    /// Counts a request for a sender, unless it had too many.
    fn may_request(&mut self, sender: &str, now: std::time::Instant) -> bool {
        if self.senders.len() >= MAX_SENDERS && !self.senders.contains_key(sender) {
            self.senders.clear();
        }
        let own = self.senders.entry(sender.to_owned());
        let own = own.or_insert_with(|| TokenBucket::every(INTERVAL, BURST));
        own.wait(now).is_zero() && self.all.take(now).is_ok() && own.take(now).is_ok()
    }
}

impl Issuer {
    async fn load(&self) -> Result<(), JwksError> {
        let keys = self.fetch().await.inspect_err(|error| {
            warn!(error = %Chain(error), "could not load the keys of the issuer");
        })?;
        info!(keys = keys.len(), "loaded the keys of the issuer");
        *self.key_set.write() = Some(Arc::new(KeySet { keys, loaded_at: Instant::now() }));
        Ok(())
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
