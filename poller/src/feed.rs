//! The feed of a source: its wanted topics, its way to publish, and its access to the database.

use std::sync::Arc;

use aws::{
    control::Control,
    error::StoreError,
    log::{Log, LoggedPost},
};
use domain::{
    entry::{Entry, Newest},
    frame::Frame,
    source::State,
    topic::Topic,
};
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
    term: u64,
}

impl Feed {
    /// Makes the feed of the source called `source`, for the term with this epoch.
    pub fn new(
        source: &str,
        term: u64,
        wanted: watch::Receiver<Arc<Wanted>>,
        numbering: Numbering,
        states: States,
        log: Log,
        control: Control,
    ) -> Self {
        Self { source: source.into(), wanted, numbering, states, log, control, term }
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

    /// Returns the epoch of the lease, which is higher whenever this poller begins to lead again.
    pub fn term(&self) -> u64 {
        self.term
    }

    /// Returns the newest frame of a topic in the log, and how many events were reported as lost after it. Earlier
    /// leaders cannot append any more.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest(&self, topic: &Topic) -> Result<Option<(Frame, u64)>, StoreError> {
        self.numbering.fence(topic).await?;
        let Some(frame) = self.log.newest_frame(topic).await? else { return Ok(None) };
        let lost = match self.log.newest(topic).await? {
            Some(Newest { entry: Entry::Lost { last, .. }, .. }) => {
                last.saturating_sub(frame.last())
            }
            Some(_) | None => 0,
        };
        Ok(Some((frame, lost)))
    }

    /// Returns what the log has of a post on a topic. Earlier leaders cannot append it after that.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn post(&self, topic: &Topic, uri: &str) -> Result<Option<LoggedPost>, StoreError> {
        self.numbering.fence(topic).await?;
        let mut found = None;
        for place in self.control.places(uri, topic).await? {
            match self.log.post(topic, place, uri).await? {
                Some(LoggedPost::Present) => return Ok(Some(LoggedPost::Present)),
                other => found = found.or(other),
            }
        }
        Ok(found)
    }

    /// Returns the table in which a source stores its own data.
    pub fn control(&self) -> &Control {
        &self.control
    }
}
