//! `/api/v1/status`: the state of the sources and of the service.

use std::collections::BTreeMap;

use axum::{Json, Router, extract::State, routing::get};
use domain::{
    connection::LIFETIME,
    entry::Entry,
    provenance::Provenance,
    source::{Family, SourceState},
};
use jiff::Timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use super::{problem::Problem, state::RestState};
use crate::log_id::LogIdError;

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/status", get(status))
}

/// The state of the service.
#[derive(Serialize, ToSchema)]
pub(super) struct Status {
    /// The version of the program.
    version: &'static str,
    /// `live` or `simulated`; absent before a poller has started for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    data: Option<Provenance>,
    /// The id of the log; absent before a poller has started for the first time.
    #[serde(skip_serializing_if = "Option::is_none")]
    log: Option<String>,
    /// The state of each source.
    #[schema(value_type = Vec<Object>)]
    sources: Vec<SourceStatus>,
    /// The number of topics that are being fetched from their upstreams.
    topics: usize,
    /// The number of open connections.
    connections: usize,
}

/// The state of a source.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceStatus {
    #[serde(flatten)]
    state: SourceState,
    /// Milliseconds since the newest event of the source's topics; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<i64>,
}

/// Returns the state of the sources and of the service.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
pub(super) async fn status(State(state): State<RestState>) -> Result<Json<Status>, Problem> {
    let app = &state.app;
    let now = state.now();
    let control = &app.tables.control;
    let wanted = control.wanted().await?;
    let mut newest: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for topic in &wanted {
        if let Some(Entry::Frame(frame)) = app.tables.log.newest(topic).await?.map(|it| it.entry) {
            let at = newest.entry(topic.source()).or_insert(frame.at());
            *at = (*at).max(frame.at());
        }
    }
    let sources = control
        .sources()
        .await?
        .into_iter()
        .map(|state| {
            let lag_ms = newest
                .get(Family::of_source(&state.source).name())
                .map(|at| (now.as_millisecond() - at.as_millisecond()).max(0));
            SourceStatus { state, lag_ms }
        })
        .collect();
    let mut connections = 0;
    for shard in app.shards.all() {
        let all = app.tables.connections.changes(shard, now - LIFETIME).await?;
        connections += all.iter().filter(|connection| !connection.gone).count();
    }
    let log = match app.log_id.get().await {
        Ok(id) => Some(id.to_string()),
        Err(LogIdError::Missing) => None,
        Err(LogIdError::Store(error)) => return Err(error.into()),
    };
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        data: control.provenance().await?,
        log,
        sources,
        topics: wanted.len(),
        connections,
    }))
}
