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
use tokio::{sync::Mutex, time::Instant};
use tracing::{error, info, warn};

/// How long the version in force is cached.
const CACHE_FOR: Duration = Duration::from_secs(2);

/// Why the rules are not known. Without rules nothing is permitted.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The database failed.
    #[error("could not read the rules")]
    Store(#[from] StoreError),
    /// The rules in force are not valid, and no earlier version is loaded.
    #[error("version {version} of the rules is not valid")]
    Invalid {
        /// Their version.
        version: u64,
        /// What is wrong with them.
        #[source]
        source: InvalidSet,
    },
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
    /// Held while a request loads the rules.
    loading: Mutex<()>,
}

#[derive(Clone, Debug)]
struct State {
    in_force: InForce,
    /// The newest version that was loaded, valid or not.
    seen: u64,
    loaded_at: Instant,
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
        Self { control, preset, state: RwLock::default(), loading: Mutex::new(()) }
    }

    /// Returns the rules in force, as of at most two seconds ago.
    ///
    /// The previous version stays in force while the database is unavailable, and while the newest
    /// version is not valid.
    ///
    /// # Errors
    ///
    /// [`RulesError`] when there is no previous version.
    pub async fn current(&self) -> Result<InForce, RulesError> {
        match self.known() {
            Some(state) if state.loaded_at.elapsed() < CACHE_FOR => Ok(state.in_force),
            // Rarely awaited, and large.
            known => Box::pin(self.load(known)).await,
        }
    }

    /// Returns the rules in force, which have at least this `version`.
    ///
    /// The caller learns the version from a poller that checks it every second. The database is read
    /// only for a newer version, so that this is cheap enough to call for every frame.
    ///
    /// # Errors
    ///
    /// See [`Rules::current`].
    pub async fn at_least(&self, version: u64) -> Result<InForce, RulesError> {
        match self.known() {
            Some(state) if state.seen >= version => Ok(state.in_force),
            known => Box::pin(self.load(known)).await,
        }
    }

    fn known(&self) -> Option<State> {
        self.state.read().clone()
    }

    async fn load(&self, before: Option<State>) -> Result<InForce, RulesError> {
        let _loading = self.loading.lock().await;
        if let Some(state) = self.known()
            && before.as_ref().is_none_or(|before| before.loaded_at < state.loaded_at)
        {
            return Ok(state.in_force);
        }
        let loaded_at = Instant::now();
        let state = match self.read(before.as_ref()).await {
            Ok((in_force, seen)) => State { in_force, seen, loaded_at },
            Err(error) => {
                let Some(before) = before else { return Err(error) };
                let seen = match &error {
                    RulesError::Store(_) => {
                        warn!(error = %Chain(&error), "could not load the rules; keeping the previous version");
                        before.seen
                    }
                    RulesError::Invalid { version, .. } => {
                        error!(error = %Chain(&error), "could not load the rules; keeping the previous version");
                        *version
                    }
                };
                State { seen, loaded_at, ..before }
            }
        };
        let in_force = state.in_force.clone();
        *self.state.write() = Some(state);
        Ok(in_force)
    }

    async fn read(&self, before: Option<&State>) -> Result<(InForce, u64), RulesError> {
        let Some(current) = self.control.current_rules().await? else {
            return Ok((self.preset.clone(), 0));
        };
        if let Some(before) = before
            && before.seen == current.version
        {
            return Ok((before.in_force.clone(), before.seen));
        }
        let text = self.control.rules(&current).await?;
        let version = current.version;
        let set = RuleSet::read(text).map_err(|source| RulesError::Invalid { version, source })?;
        info!(version, at = %current.at, "loaded the rules in force");
        let overrides = self.preset.overrides;
        Ok((InForce { version, set: Arc::new(set), overrides }, version))
    }
}
