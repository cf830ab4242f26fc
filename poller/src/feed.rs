//! The feed of a source: its wanted topics, its way to publish, and its access to the database.

use std::sync::Arc;

use aws::{control::Control, error::StoreError, log::Log};
use domain::{entry::Entry, frame::Frame, source::State, topic::Topic};
use tokio::sync::watch;

use crate::{numbering::Numbering, outgoing::Outgoing, states::States, wanted::Wanted};

/// The interface of a source to the rest of the poller. Clones share everything.
#[derive(Clone)]
pub struct Feed {
    source: Arc<str>,
    wanted: watch::Receiver<Arc<Wanted>>,
    numbering: Numbering,
    states: States,
    log: Log,
    control: Control,
}

impl Feed {
    /// Makes the feed of the source called `source`.
    pub fn new(
        source: &str,
        wanted: watch::Receiver<Arc<Wanted>>,
        numbering: Numbering,
        states: States,
        log: Log,
        control: Control,
    ) -> Self {
        Self { source: source.into(), wanted, numbering, states, log, control }
    }

    /// Returns the wanted topics of the source's family. A topic stays wanted for a minute after its
    /// last subscriber has left.
    pub fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.wanted.clone()
    }

    /// Adds an event to the pending events of a topic. Never blocks.
    pub fn publish(&self, topic: &Topic, event: Outgoing) {
        self.numbering.publish(topic, event);
    }

    /// Reports the state of the source: [`State::Live`], [`State::Connecting`] or [`State::Down`],
    /// with a sentence for people. Reporting the same state again changes nothing.
    pub fn report(&self, state: State, detail: impl Into<String>) {
        self.states.report(&self.source, state, detail.into());
    }

    /// Returns the newest frame of a topic in the log.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest(&self, topic: &Topic) -> Result<Option<Frame>, StoreError> {
        let newest = self.log.newest(topic).await?;
        Ok(newest.and_then(|newest| match newest.entry {
            Entry::Frame(frame) => Some(frame),
            Entry::Lost { .. } => None,
        }))
    }

    /// Returns the table in which a source stores its own data.
    pub fn control(&self) -> &Control {
        &self.control
    }
}
