//! Sessions: the start, the events and the end of reading a server.

use domain::{clock::Clock, source::State};
use std::{collections::VecDeque, time::Duration};

use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{CHECKED, api::ApiError, status::Update};

/// An event of a session. Events are sent in the order in which they happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum SessionEvent {
    /// Something changed on the server's timeline.
    Update(Update),
    /// The state of the source changed.
    State(State, String),
    /// The server sent a message that is not about posts, or that cannot be parsed.
    Unexpected(Unexpected),
}

/// A message that is not about posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Unexpected {
    /// An event of another kind.
    Other,
    /// An error that did not end the connection.
    Error,
    /// A message that does not match the interface.
    Malformed,
}

/// The point up to which a server's timeline is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Position {
    /// When the last update arrived.
    pub(super) at: Timestamp,
    /// The id of the last status, if it is known.
    pub(super) id: Option<String>,
}

/// The part of a server's timeline that may have been missed before a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// Where it starts. `None` as long as nothing of the server was published.
    pub(super) since: Option<Position>,
    /// Earlier statuses that may have been edited or deleted during the gap.
    pub(super) check: Vec<String>,
}

impl Gap {
    /// Returns the gap after these updates have been fetched. Their posts may have been deleted since.
    pub(super) fn with(self, filled: &[Update]) -> Self {
        let posts = filled.iter().rev().filter_map(|update| match update {
            Update::Post(status) => Some(status.id().into_owned()),
            Update::Edit(_) | Update::Delete(_) => None,
        });
        let mut check: Vec<String> = posts.collect();
        check.extend(self.check.into_iter().filter(|id| !check.contains(id)).collect::<Vec<_>>());
        check.truncate(CHECKED);
        Self { check, ..self }
    }

    /// Returns what may be missing until the stream has begun, when the gap is filled and the subscription was
    /// requested at this time.
    pub(super) fn until_streamed(self, requested_at: Timestamp) -> Self {
        let known = self.since.and_then(|position| position.id);
        let id = self.check.first().cloned().or(known);
        Self { since: Some(Position { at: requested_at, id }), check: self.check }
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum SessionEnd {
    /// The source stops.
    #[error("stopped")]
    Stopped,
    /// The server cannot be read until someone changes its settings or ours.
    #[error("{0}")]
    Rejected(String),
    /// The server asks to wait.
    #[error("rate limited: server asks to wait {} s", .0.as_secs())]
    RateLimited(Duration),
    /// A request failed.
    #[error("request to the server failed")]
    Api(#[source] ApiError),
    /// The connection failed.
    #[error("connection to the server failed")]
    Socket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// Nothing arrived for too long.
    #[error("{0}")]
    Silent(&'static str),
}

impl From<ApiError> for SessionEnd {
    fn from(error: ApiError) -> Self {
        match (error.permanent_reason(), error) {
            (Some(why), _) => Self::Rejected(why.to_owned()),
            (None, ApiError::RateLimited(wait)) => Self::RateLimited(wait),
            (None, error) => Self::Api(error),
        }
    }
}

/// Where a session sends its events, and its position in the timeline.
pub(super) struct Out {
    events: mpsc::Sender<SessionEvent>,
    clock: Clock,
    /// The point up to which the timeline is known.
    pub(super) position: Option<Position>,
    /// How many updates were forwarded.
    pub(super) forwarded: u64,
    /// The ids of the last posts that were forwarded, newest first. They may not be published yet.
    pub(super) recent: VecDeque<String>,
}

impl Out {
    /// Starts at the position of an earlier session.
    pub(super) fn new(
        events: mpsc::Sender<SessionEvent>,
        clock: Clock,
        position: Option<Position>,
    ) -> Self {
        Self { events, clock, position, forwarded: 0, recent: VecDeque::new() }
    }

    /// Sends an update.
    ///
    /// # Errors
    ///
    /// [`SessionEnd::Stopped`] when the receiver is gone.
    pub(super) async fn forward(&mut self, update: Update) -> Result<(), SessionEnd> {
        let id = match &update {
            Update::Post(status) => Some(status.id().into_owned()),
            Update::Edit(_) | Update::Delete(_) => None,
        };
        self.send(SessionEvent::Update(update)).await?;
        self.forwarded += 1;
        if let Some(id) = &id {
            self.recent.push_front(id.clone());
            self.recent.truncate(CHECKED);
        }
        // The position moves only after the update was sent.
        let id = id.or_else(|| self.position.take()?.id);
        self.position = Some(Position { at: self.clock.now(), id });
        Ok(())
    }

    /// Sends an event that is not an update.
    ///
    /// # Errors
    ///
    /// [`SessionEnd::Stopped`] when the receiver is gone.
    pub(super) async fn send(&self, event: SessionEvent) -> Result<(), SessionEnd> {
        self.events.send(event).await.map_err(|_| SessionEnd::Stopped)
    }
}
