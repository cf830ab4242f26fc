//! The database, served over HTTP.

use std::{io, net::SocketAddr};

use tokio::{
    net::TcpListener,
    task::{JoinError, JoinHandle},
};
use tokio_util::sync::CancellationToken;

use crate::storage::Storage;

/// A running DynamoDB server.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    serving: JoinHandle<Result<(), String>>,
    expiry: JoinHandle<()>,
}

/// Why a server stopped before its shutdown.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The server could no longer accept connections.
    #[error("the DynamoDB server failed: {0}")]
    Failed(String),
    /// The server panicked.
    #[error("the DynamoDB server panicked")]
    Panicked(#[from] JoinError),
}

impl Server {
    /// Serves `storage` at `listen` until `shutdown`, and deletes its expired items once a minute.
    /// Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// When the address cannot be bound.
    pub async fn start(
        listen: SocketAddr,
        storage: Storage,
        shutdown: CancellationToken,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let serving = tokio::spawn(dynoxide::server::serve_with_shutdown(
            listener,
            storage.database.clone(),
            shutdown.clone().cancelled_owned(),
        ));
        let expiry = tokio::spawn(storage.delete_expired(shutdown));
        Ok(Self { address, serving, expiry })
    }

    /// Returns the address that the server listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until the server has stopped.
    ///
    /// # Errors
    ///
    /// [`ServeError`] when the server stopped before its shutdown.
    pub async fn stopped(self) -> Result<(), ServeError> {
        let result = self.serving.await;
        self.expiry.abort();
        result?.map_err(ServeError::Failed)
    }
}
