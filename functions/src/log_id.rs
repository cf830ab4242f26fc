//! The id of the log, as this process knows it. It never changes, so it is read once.

use aws::{control::Control, error::StoreError};
use domain::log_id::LogId;
use tokio::sync::OnceCell;

/// Why the id of the log is not known.
#[derive(Debug, thiserror::Error)]
pub enum LogIdError {
    /// The database failed.
    #[error("could not read the id of the log")]
    Store(#[from] StoreError),
    /// No poller has started yet, so there is no log.
    #[error("the log has no id yet; a poller makes it when it starts")]
    Missing,
}

/// The id of the log, which is read when it is first used.
#[derive(Debug)]
pub struct CachedLogId {
    control: Control,
    id: OnceCell<LogId>,
}

impl CachedLogId {
    /// Returns a cache that has not read the id yet.
    pub fn new(control: Control) -> Self {
        Self { control, id: OnceCell::new() }
    }

    /// Returns the id. Requests that arrive while it is read wait for the same read.
    ///
    /// # Errors
    ///
    /// [`LogIdError`] when the database fails, or there is no log yet.
    pub async fn get(&self) -> Result<&LogId, LogIdError> {
        let read = async || self.control.log_id().await?.ok_or(LogIdError::Missing);
        self.id.get_or_try_init(read).await
    }
}
