//! What a source is given: where to put events, what is wanted, and what it has told before.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use domain::topic::Topic;

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
