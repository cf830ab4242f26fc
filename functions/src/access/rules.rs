//! The rules in force, as this process knows them. They are loaded on first use, and again when they may
//! have changed.

use std::{sync::Arc, time::Duration};

use aws::{control::Control, error::StoreError};
use domain::{
    access::{Limits, Principal, Right},
    chain::Chain,
    rules::{InvalidSet, RuleSet},
};
use parking_lot::RwLock;
use tokio::{
    sync::Mutex,
    time::{self, Instant},
};
use tracing::{error, info, warn};

/// How long the version in force is cached.
const CACHE_FOR: Duration = Duration::from_secs(2);

/// How long rules are used that the database has not confirmed since. A change of the rules takes effect
/// within this time, also in a process that cannot reach the database.
const VALID_FOR: Duration = Duration::from_secs(5);

/// How long a read of the rules may take. A job whose read fails can still use the rules that it has.
const READ_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait after a read that failed.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Why the rules are not known. Without rules nothing is permitted.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The database failed.
    #[error("could not read the rules")]
    Store(#[from] StoreError),
    /// The rules in force are not valid.
    #[error("version {version} of the rules is not valid")]
    Invalid {
        /// Their version.
        version: u64,
        /// What is wrong with them.
        #[source]
        source: InvalidSet,
    },
    /// The database does not have a version that was in force.
    #[error("the database does not have version {version} of the rules")]
    Missing {
        /// The version.
        version: u64,
    },
    /// The database did not respond, so the rules may have changed.
    #[error("could not confirm the rules in the last {} s", VALID_FOR.as_secs())]
    Stale,
}

/// The rules in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Increases by one each time rules are put in force; 0 for the initial rules.
    pub version: u64,
    set: Arc<RuleSet>,
    overrides: Overrides,
}

/// Limits for every class that override those of the rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Maximum number of topics per connection.
    pub topics: Option<usize>,
    /// Maximum number of messages per second from a connection.
    pub messages_per_second: Option<u32>,
}

/// Keeps the rules in force loaded.
#[derive(Debug)]
pub struct Rules {
    control: Control,
    preset: InForce,
    state: RwLock<Option<State>>,
    /// Held while a request reads the rules. The time of the last read, if it failed.
    reading: Mutex<Option<Instant>>,
}

#[derive(Clone, Debug)]
struct State {
    in_force: InForce,
    /// When the database last confirmed that these rules are in force.
    confirmed_at: Instant,
}

impl InForce {
    /// Returns whether a principal has a right.
    pub fn allows(&self, principal: &Principal, right: Right<'_>) -> bool {
        self.set.allows(principal, right)
    }

    /// Returns the limits of a principal.
    pub fn limits_of(&self, principal: &Principal) -> Limits {
        let limits = self.set.limits_of(principal);
        Limits {
            topics: self.overrides.topics.unwrap_or(limits.topics),
            messages_per_second: self
                .overrides
                .messages_per_second
                .unwrap_or(limits.messages_per_second),
            ..limits
        }
    }

    /// Returns the rules themselves.
    pub fn set(&self) -> &RuleSet {
        &self.set
    }
}

impl Rules {
    /// Returns rules that are `preset` until others are put in force.
    pub fn new(control: Control, preset: RuleSet, overrides: Overrides) -> Self {
        let preset = InForce { version: 0, set: Arc::new(preset), overrides };
        Self { control, preset, state: RwLock::default(), reading: Mutex::default() }
    }

    /// Returns the rules in force, as of at most two seconds ago. While the database is unavailable or the
    /// newest version is not valid, the rules are those of at most five seconds ago.
    ///
    /// # Errors
    ///
    /// [`RulesError`] when the rules in force of the last five seconds are not known.
    pub async fn current(&self) -> Result<InForce, RulesError> {
        self.get(0, VALID_FOR).await
    }

    /// Returns the rules in force, which have at least this `version`. They stay valid for as long as the caller
    /// uses them.
    ///
    /// The caller learns the version from a poller that checks it every second. The database is read only
    /// for a newer version, or if the rules were last confirmed two seconds ago. This is cheap enough to call
    /// for every job.
    ///
    /// # Errors
    ///
    /// See [`Rules::current`]. An older version than `version` is never returned.
    pub async fn at_least(&self, version: u64, used_for: Duration) -> Result<InForce, RulesError> {
        self.get(version, VALID_FOR.saturating_sub(used_for)).await
    }

    /// Returns the limits of a principal. While the rules in force are not known, these are the limits of
    /// the last known rules: limits only slow a client down.
    pub async fn limits_of(&self, principal: &Principal) -> Limits {
        let rules = match self.current().await {
            Ok(rules) => rules,
            Err(_) => self.state.read().as_ref().map_or(&self.preset, |it| &it.in_force).clone(),
        };
        rules.limits_of(principal)
    }

    /// Returns rules that were confirmed within `valid_for`.
    async fn get(&self, version: u64, valid_for: Duration) -> Result<InForce, RulesError> {
        match self.known(version, CACHE_FOR.min(valid_for)) {
            Some(rules) => Ok(rules),
            // Rarely awaited, and large.
            None => Box::pin(self.load(version, valid_for)).await,
        }
    }

    /// Returns the known rules, if they have this version and were confirmed recently.
    fn known(&self, version: u64, max_age: Duration) -> Option<InForce> {
        let state = self.state.read();
        let state = state.as_ref()?;
        let is_fit = state.in_force.version >= version && state.confirmed_at.elapsed() < max_age;
        is_fit.then(|| state.in_force.clone())
    }

    async fn load(&self, version: u64, valid_for: Duration) -> Result<InForce, RulesError> {
        let mut failed_at = self.reading.lock().await;
        // Another request may have read them meanwhile.
        if let Some(rules) = self.known(version, CACHE_FOR.min(valid_for)) {
            return Ok(rules);
        }
        let mut error = None;
        if failed_at.is_none_or(|at| at.elapsed() >= RETRY_AFTER) {
            let confirmed_at = Instant::now();
            let read = time::timeout(READ_TIMEOUT, self.read()).await;
            match read.unwrap_or(Err(RulesError::Stale)) {
                Ok(in_force) => {
                    *failed_at = None;
                    error = Some(RulesError::Missing { version });
                    *self.state.write() = Some(State { in_force, confirmed_at });
                }
                Err(failed) => {
                    *failed_at = Some(Instant::now());
                    log_failure(&failed);
                    error = Some(failed);
                }
            }
        }
        self.known(version, valid_for).ok_or_else(|| error.unwrap_or(RulesError::Stale))
    }

    async fn read(&self) -> Result<InForce, RulesError> {
        let Some(current) = self.control.current_rules().await? else {
            return Ok(self.preset.clone());
        };
        if let Some(state) = self.state.read().as_ref()
            && state.in_force.version == current.version
        {
            return Ok(state.in_force.clone());
        }
        let text = self.control.rules(&current).await?;
        let version = current.version;
        let set = RuleSet::read(text).map_err(|source| RulesError::Invalid { version, source })?;
        info!(version, at = %current.at, "loaded the rules in force");
        let overrides = self.preset.overrides;
        Ok(InForce { version, set: Arc::new(set), overrides })
    }
}

fn log_failure(failure: &RulesError) {
    match failure {
        RulesError::Invalid { .. } => {
            error!(error = %Chain(failure), "could not load the rules in force");
        }
        RulesError::Store(_) | RulesError::Missing { .. } | RulesError::Stale => {
            warn!(error = %Chain(failure), "could not load the rules in force; retrying");
        }
    }
}
