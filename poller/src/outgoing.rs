//! Events on their way from a source to the log.

use std::sync::Arc;

use bytes::Bytes;

/// An event on its way to a topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The event: one JSON object.
    pub json: Bytes,
    /// Its role in the log.
    pub role: Role,
}

/// The role of an event in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// An ordinary event.
    Plain,
    /// A subscriber can start here, because the event contains the complete state.
    Snapshot,
    /// The event is the post with this ActivityPub URI, which may be edited or deleted later.
    Posted(Arc<str>),
    /// The event is a new version of the post, and replaces it in the log.
    Edited(Arc<str>),
    /// The event reports the deletion of the post, and replaces it in the log.
    Deleted(Arc<str>),
}

impl Role {
    /// Returns whether the event replaces an earlier one in the log.
    pub(crate) fn changes_the_log(&self) -> bool {
        match self {
            Self::Edited(_) | Self::Deleted(_) => true,
            Self::Plain | Self::Snapshot | Self::Posted(_) => false,
        }
    }

    /// Returns the URI of the post that the event is about.
    pub(crate) fn uri(&self) -> Option<&Arc<str>> {
        match self {
            Self::Posted(uri) | Self::Edited(uri) | Self::Deleted(uri) => Some(uri),
            Self::Plain | Self::Snapshot => None,
        }
    }
}

impl Outgoing {
    /// Makes an ordinary event.
    pub fn plain(json: impl Into<Bytes>) -> Self {
        Self { json: json.into(), role: Role::Plain }
    }
}
