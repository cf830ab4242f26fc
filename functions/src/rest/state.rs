//! The state of the REST handlers.

use std::sync::Arc;

use axum::http::StatusCode;
use domain::{
    access::{Limits, Principal, Right},
    clock::Clock,
    topic::Topic,
};
use jiff::Timestamp;

use super::problem::Problem;
use crate::{access::history::Grant, app::App};

/// What every handler has access to.
#[derive(Clone)]
pub(super) struct RestState {
    pub app: Arc<App>,
    clock: Clock,
}

impl RestState {
    pub(super) fn new(app: Arc<App>, clock: Clock) -> Self {
        Self { app, clock }
    }

    /// Returns the current time.
    pub(super) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Checks that the rules grant `right` to `principal`.
    ///
    /// # Errors
    ///
    /// 403 when they do not; 503 when the rules could not be loaded.
    pub(super) async fn permit(
        &self,
        principal: &Principal,
        right: Right<'_>,
    ) -> Result<(), Problem> {
        if self.app.rules.current().await?.allows(principal, right) {
            return Ok(());
        }
        let action = match right {
            Right::Connect => "connect".to_owned(),
            Right::Admin => "read or replace the rules".to_owned(),
            Right::Subscribe(topic) => format!("subscribe to {topic}"),
            Right::History(topic) => format!("read the history of {topic}"),
        };
        let detail = format!("you do not have permission to {action}");
        Err(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// Begins a request of the client that is counted under this name. It is expected to be given so many bytes
    /// of history.
    ///
    /// # Errors
    ///
    /// 429 when the client was given more than its limits allow.
    pub(super) fn begin_history<'a>(
        &'a self,
        counted_as: &'a str,
        limits: Limits,
        expected_bytes: u64,
        now: Timestamp,
    ) -> Result<Option<Grant<'a>>, Problem> {
        let limit = limits.history_bytes_per_second;
        self.app.histories.begin(counted_as, limit, expected_bytes, now).map_err(|limited| {
            let limit = limit.unwrap_or_default();
            let detail = format!("the limit is {limit} bytes of history per second");
            Problem::rate_limited(detail, limited)
        })
    }

    /// Checks that the pair of a Coinbase topic exists.
    ///
    /// # Errors
    ///
    /// 404 with the nearest names when it does not.
    pub(super) async fn check_pair(&self, topic: &Topic, now: Timestamp) -> Result<(), Problem> {
        match self.app.catalog.unknown_pair(topic, now).await? {
            None => Ok(()),
            Some(unknown) => {
                let detail = format!("Coinbase has no pair {}", unknown.pair);
                Err(Problem::new(StatusCode::NOT_FOUND, detail).with_nearest(unknown.nearest()))
            }
        }
    }
}
