//! Events on their way from a source to the log.

use std::sync::Arc;

use aws::{
    control::{Control, posts::Remembered},
    error::StoreError,
};
use bytes::Bytes;
use jiff::Timestamp;
use tokio::sync::OnceCell;

/// Most numbers that a loss takes. A client that asks for the newest events by their numbers must get some, and an
/// exchange that jumps to a wrong id must not use up the numbers.
const MOST_LOST: u64 = 50;

/// An event on its way to a topic, or the mark for events that are lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// The event: one JSON object. Empty for [`Role::Lost`].
    pub json: Bytes,
    /// Its role in the log.
    pub role: Role,
    /// The status that the post comes from. It is stored before the event is appended, so that a later process
    /// knows the post when its server edits or deletes it.
    pub status: Option<Arc<StatusRecord>>,
}

/// Which post a server's status stands for.
#[derive(Debug, PartialEq, Eq)]
pub struct StatusRecord {
    /// Host of the server.
    pub server: Arc<str>,
    /// The id of the status there.
    pub id: String,
    /// The post, and its topics.
    pub remembered: Remembered,
    /// When it is forgotten.
    pub expires_at: Timestamp,
    is_stored: OnceCell<()>,
}

impl StatusRecord {
    /// Makes a record that is not stored yet.
    pub fn new(
        server: Arc<str>,
        id: String,
        remembered: Remembered,
        expires_at: Timestamp,
    ) -> Self {
        Self { server, id, remembered, expires_at, is_stored: OnceCell::new() }
    }

    /// Stores it, once for all events that need it.
    ///
    /// # Errors
    ///
    /// [`StoreError`] when the database fails.
    pub async fn store(&self, control: &Control) -> Result<(), StoreError> {
        let Self { server, id, remembered, expires_at, is_stored } = self;
        let store = || control.remember_status(server, id, remembered, *expires_at);
        is_stored.get_or_try_init(store).await?;
        Ok(())
    }
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
    /// Events were here that could not be fetched, or were dropped. They get so many numbers, so that clients notice.
    Lost(u64),
}

impl Role {
    /// Returns whether the event replaces an earlier one in the log.
    pub(crate) fn changes_the_log(&self) -> bool {
        match self {
            Self::Edited(_) | Self::Deleted(_) => true,
            Self::Plain | Self::Snapshot | Self::Posted(_) | Self::Lost(_) => false,
        }
    }

    /// Returns the URI of the post that the event is about.
    pub(crate) fn uri(&self) -> Option<&Arc<str>> {
        match self {
            Self::Posted(uri) | Self::Edited(uri) | Self::Deleted(uri) => Some(uri),
            Self::Plain | Self::Snapshot | Self::Lost(_) => None,
        }
    }
}

impl Outgoing {
    /// Makes an event that stands for no status.
    pub fn new(json: impl Into<Bytes>, role: Role) -> Self {
        Self { json: json.into(), role, status: None }
    }

    /// Makes an ordinary event.
    pub fn plain(json: impl Into<Bytes>) -> Self {
        Self::new(json, Role::Plain)
    }

    /// Makes the mark for this many events that are lost. If there are very many, it gets fewer numbers.
    pub fn lost(count: u64) -> Self {
        Self::new(Bytes::new(), Role::Lost(count.min(MOST_LOST)))
    }

    /// Returns how many numbers it gets.
    pub(crate) fn count(&self) -> u64 {
        match self.role {
            Role::Lost(count) => count,
            _ => 1,
        }
    }
}
