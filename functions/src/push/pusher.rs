//! The state of the function `push`, and what all parts of a job use.

use std::{collections::HashMap, sync::Arc};

use aws::{connections::Connections, error::StoreError, log::Log, tables::Tables};
use bytes::Bytes;
use domain::{
    chain::Chain,
    connection::Recipient,
    outlet::{Outlet, OutletError},
    push::Report,
    shard::Shard,
};
use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;
use tracing::warn;

use super::view::View;
use crate::{
    access::rules::{InForce, Rules, RulesError},
    clock::Clock,
};

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The connections of the shard could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rules are not known.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// The function `push`, with the views of shards that it keeps between invocations.
pub struct Pusher {
    pub(super) connections: Connections,
    pub(super) log: Log,
    pub(super) outlet: Arc<dyn Outlet>,
    pub(super) rules: Arc<Rules>,
    pub(super) clock: Clock,
    views: Mutex<HashMap<Shard, Arc<AsyncMutex<View>>>>,
}

impl Pusher {
    /// Returns a pusher that knows no connections yet.
    pub fn new(tables: &Tables, outlet: Arc<dyn Outlet>, rules: Arc<Rules>, clock: Clock) -> Self {
        Self {
            connections: tables.connections.clone(),
            log: tables.log.clone(),
            outlet,
            rules,
            clock,
            views: Mutex::default(),
        }
    }

    /// Returns the view of a shard; a new one is empty.
    pub(super) fn view(&self, shard: Shard, rules: &InForce) -> Arc<AsyncMutex<View>> {
        let mut views = self.views.lock();
        let view = views.entry(shard).or_insert_with(|| {
            Arc::new(AsyncMutex::new(View::new(&self.connections, shard, rules.clone())))
        });
        view.clone()
    }

    /// Posts one message to one connection.
    pub(super) async fn post(
        &self,
        recipient: &Recipient,
        message: Bytes,
    ) -> Result<(), OutletError> {
        let errors = self.outlet.post(std::slice::from_ref(recipient), message).await;
        errors.into_iter().next().map_or(Ok(()), |(_, error)| Err(error))
    }

    /// Returns whether a message that was not accepted is dropped, rather than sent again later. Records
    /// a connection that is closed.
    pub(super) async fn is_final(
        &self,
        view: &mut View,
        shard: Shard,
        recipient: &Recipient,
        error: &OutletError,
        report: &mut Report,
        now: Timestamp,
    ) -> bool {
        match error {
            OutletError::Gone => {
                report.gone += 1;
                view.remove(&recipient.id);
                if let Err(error) = self.connections.close(shard, &recipient.id, now).await {
                    warn!(error = %Chain(&error), "could not record that a connection closed");
                }
                true
            }
            OutletError::TooLarge => {
                warn!(
                    connection.id = %recipient.id,
                    "dropped a message that is too large; the client sees a gap"
                );
                true
            }
            OutletError::Busy => false,
            OutletError::Failed(error) => {
                warn!(
                    connection.id = %recipient.id,
                    error = %Chain(error.as_ref()),
                    "could not post a message; retrying later"
                );
                false
            }
        }
    }
}
