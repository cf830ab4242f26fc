//! The state of the function `push`, and what all parts of a job use.

use std::{collections::HashMap, sync::Arc};

use aws::{connections::Connections, error::StoreError, log::Log, tables::Tables};
use bytes::Bytes;
use domain::{
    clock::Clock,
    connection::Recipient,
    outlet::{Outlet, OutletError},
    shard::Shard,
};
use parking_lot::Mutex;
use tokio::sync::Mutex as AsyncMutex;

use super::view::View;
use crate::access::rules::{InForce, Rules, RulesError};

/// Why a job failed.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// The connections of the shard could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The time of the job was over before anything could be posted.
    #[error("the time of the job was over")]
    OutOfTime,
    /// The rules are not known.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// The function `push`. It keeps views of shards between invocations, but only as caches.
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
}
