//! What the sources are doing: told on `system/sources` and stored for `/api/v1/status`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws::{
    control::{Origin, SourceState, State},
    error::Chain,
};
use domain::topic::Topic;
use jiff::{Timestamp, Unit};
use tokio::sync::mpsc;
use tracing::{info, warn};

use crate::{feed::Outgoing, numbering::Numbering};

/// The states of all sources of this poller. Clones share them.
#[derive(Clone)]
pub struct States {
    inner: Arc<Inner>,
}

struct Inner {
    origin: Origin,
    numbering: Numbering,
    last: Mutex<HashMap<String, SourceState>>,
    changed: mpsc::UnboundedSender<SourceState>,
}

impl States {
    /// No states yet. Has to be called within a runtime: a task stores what changes.
    pub fn new(origin: Origin, numbering: Numbering) -> Self {
        // Unbounded, but a source changes its state a few times a second at worst.
        let (changed, mut changes) = mpsc::unbounded_channel::<SourceState>();
        let control = numbering.tables().control.clone();
        tokio::spawn(async move {
            while let Some(state) = changes.recv().await {
                if let Err(error) = control.put_source(&state).await {
                    warn!(source.name = state.source, error = %Chain(&error), "state not stored");
                }
            }
        });
        let last = Mutex::default();
        Self { inner: Arc::new(Inner { origin, numbering, last, changed }) }
    }

    /// Notes what a source is doing, and tells it if that is new.
    pub fn report(&self, source: &str, state: State, detail: String) {
        let state = match (state, self.inner.origin) {
            (State::Live, Origin::Simulated) => State::Simulated,
            (state, _) => state,
        };
        let now = Timestamp::now();
        let now = now.round(Unit::Millisecond).unwrap_or(now);
        let told = {
            let mut last = self.inner.last.lock().unwrap_or_else(PoisonError::into_inner);
            let before = last.get(source);
            if before.is_some_and(|it| it.state == state && it.detail == detail) {
                return;
            }
            let since = before.filter(|it| it.state == state).map_or(now, |it| it.since);
            let told = SourceState { source: source.to_owned(), state, since, detail };
            last.insert(source.to_owned(), told.clone());
            told
        };
        info!(source.name = source, state = ?told.state, detail = told.detail, "source");
        if let Ok(json) = serde_json::to_vec(&told) {
            self.inner.numbering.publish(&Topic::system_sources(), Outgoing::plain(json));
        }
        // The task ends with the runtime only.
        let _ = self.inner.changed.send(told);
    }

    /// How many sources are down.
    pub(crate) fn down(&self) -> usize {
        let last = self.inner.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.values().filter(|it| it.state == State::Down).count()
    }
}
