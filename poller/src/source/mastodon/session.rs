//! What a stretch of reading a server begins with, says on its way and ends with.

use std::time::Duration;

use aws::control::State;
use jiff::Timestamp;
use tokio::sync::mpsc;

use super::{api::ApiError, status::Told};

/// Something that a session says, in the order in which it happened.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Said {
    /// The server told this.
    Told(Told),
    /// What the session is doing.
    State(State, String),
    /// The server sent something that says nothing about posts, or that cannot be read.
    Stray(Stray),
}

/// What a server sent beside posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Stray {
    /// An event of another kind.
    Other,
    /// An error that did not end the connection.
    Error,
    /// Not what the interface describes.
    Malformed,
}

/// Up to where a server's timeline is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cursor {
    /// When something was last heard.
    pub(super) at: Timestamp,
    /// The last status's id, where it is known.
    pub(super) id: Option<String>,
}

/// What is not known of a server's timeline at the start of a session.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Gap {
    /// Where it begins; none where nothing was known and so nothing is missing.
    pub(super) since: Option<Cursor>,
    /// Statuses from before it that may have been edited or deleted within.
    pub(super) check: Vec<String>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Ended {
    /// It was told to.
    #[error("it was told to stop")]
    Stopped,
    /// The server cannot be read until somebody changes something.
    #[error("{0}")]
    Refused(String),
    /// The server asks to wait.
    #[error("asked to wait {} s", .0.as_secs())]
    Limited(Duration),
    /// A request failed.
    #[error("a request failed")]
    Api(#[source] ApiError),
    /// The connection failed.
    #[error("the connection failed")]
    Socket(#[source] Box<tokio_tungstenite::tungstenite::Error>),
    /// The server closed the connection.
    #[error("the server closed the connection")]
    Closed,
    /// Nothing came for too long.
    #[error("{0}")]
    Silent(&'static str),
}

impl From<ApiError> for Ended {
    fn from(error: ApiError) -> Self {
        match (error.refusal(), error) {
            (Some(why), _) => Self::Refused(why.to_owned()),
            (None, ApiError::Limited(wait)) => Self::Limited(wait),
            (None, error) => Self::Api(error),
        }
    }
}

/// Where a session says what it has to say, and what it has learned by it.
pub(super) struct Out {
    said: mpsc::Sender<Said>,
    /// Up to where the timeline is known.
    pub(super) cursor: Option<Cursor>,
    /// How much was told.
    pub(super) told: u64,
}

impl Out {
    /// Begins where an earlier session ended.
    pub(super) fn new(said: mpsc::Sender<Said>, cursor: Option<Cursor>) -> Self {
        Self { said, cursor, told: 0 }
    }

    /// Passes on what the server told.
    ///
    /// # Errors
    ///
    /// [`Ended::Stopped`] when nobody listens.
    pub(super) async fn told(&mut self, told: Told) -> Result<(), Ended> {
        let id = match &told {
            Told::Post(status) => Some(status.id().into_owned()),
            Told::Edit(_) | Told::Delete(_) => None,
        };
        self.say(Said::Told(told)).await?;
        self.told += 1;
        // Only now is it past us.
        let id = id.or_else(|| self.cursor.take()?.id);
        self.cursor = Some(Cursor { at: Timestamp::now(), id });
        Ok(())
    }

    /// Says something else.
    ///
    /// # Errors
    ///
    /// [`Ended::Stopped`] when nobody listens.
    pub(super) async fn say(&self, said: Said) -> Result<(), Ended> {
        self.said.send(said).await.map_err(|_| Ended::Stopped)
    }
}
