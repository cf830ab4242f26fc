//! The rules in force in this process: read when they are used, and again when they may have changed.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws::{
    control::Control,
    error::{Chain, StoreError},
};
use domain::{
    access::{Limits, Principal, Right},
    policy::{Policies, Unsound},
};
use tokio::{sync::Mutex, time::Instant};
use tracing::{error, info, warn};

/// How old the knowledge of which set is in force may be.
const EVERY: Duration = Duration::from_secs(2);

/// Why it is not known what is permitted. Then nothing is.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// The database failed.
    #[error("rules could not be read")]
    Store(#[from] StoreError),
    /// The set that is in force is not sound, and no other was known before.
    #[error("rules of version {version} are not sound")]
    Unsound {
        /// Its version.
        version: u64,
        /// What is wrong with it.
        #[source]
        source: Unsound,
    },
}

/// The set in force.
#[derive(Clone, Debug)]
pub struct InForce {
    /// Up by one at each put; 0 for the set that holds before the first.
    pub version: u64,
    policies: Arc<Policies>,
    overrides: Overrides,
}

/// Limits that hold for every class, whatever the rules say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overrides {
    /// Topics of a connection.
    pub topics: Option<usize>,
    /// Messages a second of a connection.
    pub messages_per_second: Option<u32>,
}

/// Follows the rules in force.
#[derive(Debug)]
pub struct Rules {
    control: Control,
    preset: InForce,
    state: RwLock<Option<State>>,
    /// Held by the one who asks.
    asking: Mutex<()>,
}

#[derive(Clone, Debug)]
struct State {
    in_force: InForce,
    /// The newest version that was seen, sound or not.
    seen: u64,
    asked_at: Instant,
}

impl InForce {
    /// Whether somebody has a right.
    pub fn allows(&self, principal: &Principal, right: Right<'_>) -> bool {
        self.policies.allows(principal, right)
    }

    /// The limits of somebody.
    pub fn limits_of(&self, principal: &Principal) -> Limits {
        let limits = self.policies.limits_of(principal);
        Limits {
            topics: self.overrides.topics.unwrap_or(limits.topics),
            messages_per_second: self
                .overrides
                .messages_per_second
                .unwrap_or(limits.messages_per_second),
            ..limits
        }
    }

    /// The set itself.
    pub fn policies(&self) -> &Policies {
        &self.policies
    }
}

impl Rules {
    /// Rules that are `preset` until a set is put in force.
    pub fn new(control: Control, preset: Policies, overrides: Overrides) -> Self {
        let preset = InForce { version: 0, policies: Arc::new(preset), overrides };
        Self { control, preset, state: RwLock::default(), asking: Mutex::new(()) }
    }

    /// Returns the rules in force, as of two seconds ago at the most.
    ///
    /// While the database is away, and while the set in force is not sound, those before it hold.
    ///
    /// # Errors
    ///
    /// [`RulesError`] when there are none before it.
    pub async fn current(&self) -> Result<InForce, RulesError> {
        match self.known() {
            Some(state) if state.asked_at.elapsed() < EVERY => Ok(state.in_force),
            // Seldom awaited, and large.
            known => Box::pin(self.ask(known)).await,
        }
    }

    /// Returns the rules in force, which somebody who looks every second has seen to be of
    /// `version`. Without a newer version the database is not asked: this is for the way of each frame.
    ///
    /// # Errors
    ///
    /// As [`Rules::current`].
    pub async fn at_least(&self, version: u64) -> Result<InForce, RulesError> {
        match self.known() {
            Some(state) if state.seen >= version => Ok(state.in_force),
            known => Box::pin(self.ask(known)).await,
        }
    }

    fn known(&self) -> Option<State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn ask(&self, before: Option<State>) -> Result<InForce, RulesError> {
        let _asking = self.asking.lock().await;
        if let Some(state) = self.known()
            && before.as_ref().is_none_or(|before| before.asked_at < state.asked_at)
        {
            return Ok(state.in_force);
        }
        let asked_at = Instant::now();
        let state = match self.read(before.as_ref()).await {
            Ok((in_force, seen)) => State { in_force, seen, asked_at },
            Err(error) => {
                let Some(before) = before else { return Err(error) };
                let seen = match &error {
                    RulesError::Store(_) => {
                        warn!(error = %Chain(&error), "the rules before hold");
                        before.seen
                    }
                    RulesError::Unsound { version, .. } => {
                        error!(error = %Chain(&error), "the rules before hold");
                        *version
                    }
                };
                State { seen, asked_at, ..before }
            }
        };
        let in_force = state.in_force.clone();
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(state);
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
        let policies =
            Policies::read(text).map_err(|source| RulesError::Unsound { version, source })?;
        info!(version, at = %current.at, "rules in force");
        let overrides = self.preset.overrides;
        Ok((InForce { version, policies: Arc::new(policies), overrides }, version))
    }
}
