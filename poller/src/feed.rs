//! What a source is given: where to put events, what is wanted, and what it has told before.

use std::{collections::BTreeSet, sync::Arc};

use aws::{
    control::{Control, State},
    error::StoreError,
    log::Entry,
};
use bytes::Bytes;
use domain::{frame::Frame, topic::Topic};
use tokio::sync::watch;

use crate::{numbering::Numbering, states::States};

/// The topics of one source that somebody wants, or that the configuration records.
pub type Wanted = BTreeSet<Topic>;

/// An event on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The event: one JSON object.
    pub json: Bytes,
    /// What it means for the log.
    pub role: Role,
}

/// What an event means for the log, beyond being in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing.
    Plain,
    /// A subscriber can start here: it holds the whole state.
    Snapshot,
    /// It is this post, by ActivityPub URI, and may be edited or deleted later.
    Posted(Arc<str>),
    /// It takes the place of what the log has of this post, and is the post from here on.
    Edited(Arc<str>),
    /// It takes the place of what the log has of this post.
    Deleted(Arc<str>),
}

impl Outgoing {
    /// An event that means nothing more for the log.
    pub fn plain(json: impl Into<Bytes>) -> Self {
        Self { json: json.into(), role: Role::Plain }
    }
}

/// What a source is given. Clones share everything.
#[derive(Clone)]
pub struct Feed {
    source: Arc<str>,
    wanted: watch::Receiver<Arc<Wanted>>,
    numbering: Numbering,
    states: States,
}

impl Feed {
    /// The feed of the source called `source`.
    pub fn new(
        source: &str,
        wanted: watch::Receiver<Arc<Wanted>>,
        numbering: Numbering,
        states: States,
    ) -> Self {
        Self { source: source.into(), wanted, numbering, states }
    }

    /// The topics that are wanted of the source's family; a topic stays for a minute after the last
    /// who wants it.
    pub fn wanted(&self) -> watch::Receiver<Arc<Wanted>> {
        self.wanted.clone()
    }

    /// Puts an event behind those that wait on a topic. Never blocks.
    pub fn publish(&self, topic: &Topic, event: Outgoing) {
        self.numbering.publish(topic, event);
    }

    /// Tells what the source is doing: [`State::Live`], [`State::Connecting`] or [`State::Down`],
    /// with a sentence for people. Saying the same again changes nothing.
    pub fn report(&self, state: State, detail: impl Into<String>) {
        self.states.report(&self.source, state, detail.into());
    }

    /// Returns the newest frame that the log has of a topic.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn newest(&self, topic: &Topic) -> Result<Option<Frame>, StoreError> {
        let newest = self.numbering.tables().log.newest(topic).await?;
        Ok(newest.and_then(|newest| match newest.entry {
            Entry::Frame(frame) => Some(frame),
            Entry::Lost { .. } => None,
        }))
    }

    /// The table that keeps what a source has to remember.
    pub fn control(&self) -> &Control {
        &self.numbering.tables().control
    }
}
