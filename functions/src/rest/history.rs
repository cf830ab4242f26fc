//! `/api/v1/history`: the events of a topic that the log retains.

use aws::error::StoreError;
use axum::{
    Extension, Json, Router,
    extract::{OriginalUri, Query, State, rejection::QueryRejection},
    routing::get,
};
use domain::{access::Right, entry::Entry};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::{problem::Problem, state::RestState, topic_path::topic_in_path};
use crate::access::{caller::Caller, history::EVENT_BYTES};

const PREFIX: &str = "/api/v1/history/";

/// Default number of events in a page.
const DEFAULT_LIMIT: u64 = 100;

/// Largest number of events in a page.
const MAX_LIMIT: u64 = 1_000;

/// Approximate size of a page. A Lambda response has at most 6 MB.
const PAGE_BYTES: usize = 512 * 1024;

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/history/{*topic}", get(history))
}

/// Selects events of a topic.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Return only events with a sequence number above this one.
    after: Option<u64>,
    /// Return only events with a sequence number below this one. Without `after`, return the newest of them.
    before: Option<u64>,
    /// Maximum number of events, 1 to 1000; 100 by default.
    limit: Option<u64>,
}

/// A page of a topic's events.
#[derive(Serialize, ToSchema)]
pub(super) struct History {
    /// The topic, in canonical spelling.
    topic: String,
    /// The id of the log, which all numbers belong to.
    log: String,
    /// The events, oldest first.
    events: Vec<PastEvent>,
    /// The value of `after` for the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

/// An event from the log.
#[derive(Serialize, ToSchema)]
pub(super) struct PastEvent {
    /// The sequence number of the event.
    seq: u64,
    /// When the event was numbered.
    #[schema(format = DateTime)]
    at: String,
    /// The event itself.
    #[schema(value_type = Object)]
    event: Box<RawValue>,
}

/// Returns a topic's events from the log.
#[utoipa::path(
    get,
    path = "/api/v1/history/{topic}",
    params(("topic" = String, Path, example = "coinbase/ticker/BTC-USD"), HistoryQuery),
    responses(
        (status = 200, body = History),
        (status = 403, description = "The caller does not have permission", body = Problem),
        (status = 404, description = "The topic does not exist", body = Problem),
        (status = 422, description = "The topic or a number is malformed", body = Problem),
        (status = 429, description = "The caller has read more history than its limit allows", body = Problem),
    )
)]
pub(super) async fn history(
    State(state): State<RestState>,
    Extension(caller): Extension<Caller>,
    OriginalUri(uri): OriginalUri,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let topic = topic_in_path(&uri, PREFIX)?;
    let Query(query) = query.map_err(|rejection| Problem::unprocessable(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(Problem::unprocessable(format!("limit must be between 1 and {MAX_LIMIT}")));
    }
    let now = state.now();
    state.permit(&caller.principal, Right::History(&topic)).await?;
    state.check_pair(&topic, now).await?;
    let log = &state.app.tables.log;
    let head = log.newest(&topic).await?.map_or(0, |newest| newest.entry.last());
    let to = query.before.map_or(head, |before| before.saturating_sub(1).min(head));
    let requested = match (query.after, query.before) {
        (Some(after), _) => after.saturating_add(1),
        (None, Some(_)) => (to + 1).saturating_sub(limit).max(1),
        (None, None) => log.oldest(&topic, now).await?.unwrap_or(head + 1),
    };
    let limits = state.app.rules.current().await?.limits_of(&caller.principal);
    let from = requested.max(limits.oldest(head));
    let mut page = History {
        topic: topic.to_string(),
        log: state.app.log_id.get().await?.to_string(),
        events: Vec::new(),
        next: None,
    };
    if from > to {
        return Ok(Json(page));
    }
    let expected = limit.min(to - from + 1) * EVENT_BYTES;
    let grant = state.begin_history(&caller.counted_as, limits, expected, now)?;
    let entries = log.read(&topic, from, to, PAGE_BYTES, now).await?;
    let mut last = entries.last().map_or(to, Entry::last).min(to);
    'page: for entry in &entries {
        let Entry::Frame(frame) = entry else { continue };
        for (seq, event) in frame.events() {
            if !(from..=to).contains(&seq) {
                continue;
            }
            if page.events.len() as u64 == limit {
                last = seq - 1;
                break 'page;
            }
            if let Some(grant) = &grant {
                grant.note(event.len() as u64);
            }
            let event = serde_json::from_slice(&event)
                .map_err(|error| StoreError::Corrupt { table: "events", source: error.into() })?;
            // In the same format as in live frames.
            let at = format!("{:.6}", frame.at());
            page.events.push(PastEvent { seq, at, event });
        }
    }
    page.next = (last < to).then_some(last);
    Ok(Json(page))
}
