//! The database file and the lock of its folder.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    thread,
    time::Duration,
};

use dynoxide::{Database, DynoxideError};
use tokio::{task, time};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::operation;

/// The name of the database file in the data folder.
const DATABASE_FILE: &str = "headwater.db";

/// The name of the lock file in the data folder.
const LOCK_FILE: &str = "lock";

/// The number of retries before a locked data folder is reported as in use.
const LOCK_RETRIES: u32 = 20;

/// The delay between two attempts to lock the data folder.
const LOCK_RETRY_DELAY: Duration = Duration::from_millis(50);

/// The interval between two deletions of expired items. The engine does not delete them by itself.
const EXPIRY_INTERVAL: Duration = Duration::from_mins(1);

/// When a write to a database in a folder counts as done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// When it is on the disk. It survives a power failure.
    #[default]
    Full,
    /// When the operating system has it. It survives a crash of the process. A power failure can lose the
    /// last writes.
    Fast,
}

/// Why a text is not a durability.
#[derive(Debug, thiserror::Error)]
#[error("expected `full` or `fast`")]
pub struct UnknownDurability;

impl FromStr for Durability {
    type Err = UnknownDurability;

    fn from_str(text: &str) -> Result<Self, UnknownDurability> {
        match text {
            "full" => Ok(Self::Full),
            "fast" => Ok(Self::Fast),
            _ => Err(UnknownDurability),
        }
    }
}

/// An open database, in memory or in a folder that is locked for this process.
#[derive(Clone)]
pub struct Storage {
    pub(crate) database: Database,
    /// Held while any clone exists.
    _lock: Option<Arc<File>>,
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder does not exist and could not be created.
    #[error("cannot create the data folder {}", folder.display())]
    CreateFolder {
        /// The data folder.
        folder: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The lock file could not be created or locked.
    #[error("cannot lock the data folder {}", folder.display())]
    Lock {
        /// The data folder.
        folder: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// Another process has the folder open.
    #[error("the data folder {} is in use by another process", folder.display())]
    InUse {
        /// The data folder.
        folder: PathBuf,
    },
    /// The path is not UTF-8, which the engine requires.
    #[error("the path of the data folder {} is not UTF-8", folder.display())]
    NotUtf8 {
        /// The data folder.
        folder: PathBuf,
    },
    /// The engine could not open the database file.
    #[error("cannot open the database {}", file.display())]
    OpenFile {
        /// The database file.
        file: PathBuf,
        /// The cause.
        source: DynoxideError,
    },
    /// The engine could not create a database in memory.
    #[error("cannot create a database in memory")]
    CreateInMemory(#[source] DynoxideError),
    /// The thread of the engine could not be started.
    #[error("cannot start the database thread")]
    StartThread(#[source] io::Error),
}

impl Storage {
    /// Opens the database in `folder` and locks the folder for this process, or creates a database
    /// in memory. Creates a missing folder.
    ///
    /// # Errors
    ///
    /// [`OpenError::InUse`] when another process has the folder open; another [`OpenError`] when the
    /// folder or its database cannot be used.
    pub fn open(folder: Option<&Path>) -> Result<Self, OpenError> {
        Self::open_with(folder, Durability::default())
    }

    /// Opens a database as [`Self::open`] does, with this durability.
    ///
    /// # Errors
    ///
    /// As [`Self::open`].
    pub fn open_with(folder: Option<&Path>, durability: Durability) -> Result<Self, OpenError> {
        let Some(folder) = folder else {
            let database = Database::memory().map_err(OpenError::CreateInMemory)?;
            return Ok(Self { database, _lock: None });
        };
        create_folder(folder)
            .map_err(|source| OpenError::CreateFolder { folder: folder.to_owned(), source })?;
        let lock = lock(folder)?;
        let file = folder.join(DATABASE_FILE);
        let path = file.to_str().ok_or_else(|| OpenError::NotUtf8 { folder: folder.to_owned() })?;
        let failed = |source| OpenError::OpenFile { file: file.clone(), source };
        let database = Database::new(path).map_err(failed)?;
        match durability {
            // SQLite opens a database with `synchronous = FULL`: a commit waits for the disk.
            Durability::Full => {}
            // Sets `synchronous = NORMAL`, and everything else to SQLite's defaults.
            Durability::Fast => database.disable_bulk_loading().map_err(failed)?,
        }
        Ok(Self { database, _lock: Some(Arc::new(lock)) })
    }

    /// Runs an operation, such as `PutItem`, on this thread. Takes the request as JSON. Returns the HTTP
    /// status and the response, also as JSON.
    pub fn call(&self, operation: &str, request: &[u8]) -> (u16, String) {
        match operation::run(&self.database, operation, request) {
            Ok(json) => (200, json),
            Err(error) => (error.status_code(), error.to_json()),
        }
    }

    /// Deletes expired items once a minute until `shutdown`.
    pub async fn delete_expired(self, shutdown: CancellationToken) {
        let mut timer = time::interval(EXPIRY_INTERVAL);
        while shutdown.run_until_cancelled(timer.tick()).await.is_some() {
            let storage = self.clone();
            match task::spawn_blocking(move || storage.database.sweep_ttl()).await {
                Ok(Ok(0)) => {}
                Ok(Ok(items)) => debug!(items, "deleted expired items"),
                Ok(Err(error)) => {
                    warn!(%error, "could not delete expired items; retrying in a minute");
                }
                Err(error) => {
                    warn!(%error, "deleting expired items panicked; retrying in a minute");
                }
            }
        }
    }
}

/// Creates a folder and its parents, if they are missing, so that a power failure does not remove them. The
/// engine does the same for its files.
fn create_folder(folder: &Path) -> io::Result<()> {
    let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let missing: Vec<&Path> = folder.ancestors().take_while(missing).collect();
    fs::create_dir_all(folder)?;
    for parent in missing.into_iter().filter_map(Path::parent) {
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        File::open(parent)?.sync_all()?;
    }
    Ok(())
}

/// Locks the folder for this process until the file is dropped.
fn lock(folder: &Path) -> Result<File, OpenError> {
    let failed = |source| OpenError::Lock { folder: folder.to_owned(), source };
    let file = File::create(folder.join(LOCK_FILE)).map_err(failed)?;
    let mut retries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            // The process that holds the lock may be about to exit.
            Err(TryLockError::WouldBlock) if retries < LOCK_RETRIES => {
                retries += 1;
                thread::sleep(LOCK_RETRY_DELAY);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(OpenError::InUse { folder: folder.to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
    }
}
