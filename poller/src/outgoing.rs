//! Events on their way from a source to the log.

use std::sync::Arc;

use bytes::Bytes;

/// An event on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The event: one JSON object.
    pub json: Bytes,
    /// What it means for the log.
    pub role: Role,
}

/// What an event means for the log, besides being part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Nothing more.
    Plain,
    /// A subscriber can start here, because the event holds the complete state.
    Snapshot,
    /// The event is the post with this ActivityPub URI, which may be edited or deleted later.
    Posted(Arc<str>),
    /// The event replaces the post in the log, and is the post from here on.
    Edited(Arc<str>),
    /// The event replaces the post in the log by a note of its deletion.
    Deleted(Arc<str>),
}

impl Outgoing {
    /// Makes an event that means nothing more for the log.
    pub fn plain(json: impl Into<Bytes>) -> Self {
        Self { json: json.into(), role: Role::Plain }
    }
}
