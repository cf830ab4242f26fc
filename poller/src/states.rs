//! The states of the sources: published on `system/sources` and stored for `/api/v1/status`.

use std::{collections::HashMap, sync::Arc};

use aws::control::Control;
use domain::{
    chain::Chain,
    clock::Clock,
    provenance::Provenance,
    source::{SourceState, State},
    topic::Topic,
};
use jiff::{Timestamp, Unit};
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{numbering::Numbering, outgoing::Outgoing};

/// The states of all sources of this poller. Clones share them.
#[derive(Clone)]
pub struct States {
    inner: Arc<Inner>,
}

struct Inner {
    provenance: Provenance,
    numbering: Numbering,
    clock: Clock,
    last: Mutex<HashMap<String, SourceState>>,
    changed: mpsc::UnboundedSender<SourceState>,
}

impl States {
    /// Starts without states. Must be called within a runtime, because it spawns a task that stores the
    /// changes.
    pub fn new(
        provenance: Provenance,
        control: Control,
        numbering: Numbering,
        clock: Clock,
    ) -> Self {
        // Unbounded, but a source changes its state at most a few times a second.
        let (changed, mut changes) = mpsc::unbounded_channel::<SourceState>();
        tokio::spawn(async move {
            while let Some(state) = changes.recv().await {
                if let Err(error) = control.put_source(&state).await {
                    warn!(source.name = state.source, error = %Chain(&error), "could not store the state of the source");
                }
            }
        });
        let last = Mutex::default();
        Self { inner: Arc::new(Inner { provenance, numbering, clock, last, changed }) }
    }

    /// Records the state of a source. If it is new, publishes and stores it.
    pub fn report(&self, source: &str, state: State, detail: String) {
        let state = match (state, self.inner.provenance) {
            (State::Live, Provenance::Simulated) => State::Simulated,
            (state, _) => state,
        };
        let now = self.inner.clock.now();
        let Some(changed) = self.change(source, state, detail, now) else { return };
        info!(source.name = source, state = ?changed.state, detail = changed.detail, "source changed its state");
        if let Ok(json) = serde_json::to_vec(&changed) {
            self.inner.numbering.publish(&Topic::system_sources(), Outgoing::plain(json));
        }
        // The receiver exists as long as the runtime.
        let _ = self.inner.changed.send(changed);
    }

    /// Returns the state of a source if it differs from the last one.
    fn change(
        &self,
        source: &str,
        state: State,
        detail: String,
        now: Timestamp,
    ) -> Option<SourceState> {
        let mut last = self.inner.last.lock();
        let before = last.get(source);
        if before.is_some_and(|it| it.state == state && it.detail == detail) {
            return None;
        }
        let now = now.round(Unit::Millisecond).unwrap_or(now);
        let since = before.filter(|it| it.state == state).map_or(now, |it| it.since);
        let changed = SourceState { source: source.to_owned(), state, since, detail };
        last.insert(source.to_owned(), changed.clone());
        Some(changed)
    }

    /// Returns how many sources are down.
    pub(crate) fn down(&self) -> usize {
        self.inner.last.lock().values().filter(|it| it.state == State::Down).count()
    }
}
