//! `/api/v1/subscriptions`: subscriptions of the caller's connection to any topic.

use axum::{
    Router,
    extract::{OriginalUri, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
    routing::post,
};

use super::{
    connection::{
        ConnectionHeaders, ConnectionProblems, OwnConnection, SinceQuery, SubscribeResponses,
        UnsubscribeResponses,
    },
    problem::Problem,
    state::RestState,
    topic_path::topic_in_path,
};

const PREFIX: &str = "/api/v1/subscriptions/";

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/subscriptions/{*topic}", post(subscribe).delete(unsubscribe))
}

/// Subscribes the caller's WebSocket connection to a topic.
#[utoipa::path(
    post,
    path = "/api/v1/subscriptions/{topic}",
    params(("topic" = String, Path, example = "mastodon/public"), SinceQuery, ConnectionHeaders),
    responses(SubscribeResponses, ConnectionProblems)
)]
pub(super) async fn subscribe(
    State(state): State<RestState>,
    connection: OwnConnection,
    OriginalUri(uri): OriginalUri,
    since: Result<Query<SinceQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let topic = topic_in_path(&uri, PREFIX)?;
    connection.subscribe(&state, &topic, SinceQuery::of(since)?).await
}

/// Unsubscribes the caller's WebSocket connection from a topic.
#[utoipa::path(
    delete,
    path = "/api/v1/subscriptions/{topic}",
    params(("topic" = String, Path, example = "mastodon/public"), ConnectionHeaders),
    responses(UnsubscribeResponses, ConnectionProblems)
)]
pub(super) async fn unsubscribe(
    State(state): State<RestState>,
    connection: OwnConnection,
    OriginalUri(uri): OriginalUri,
) -> Result<StatusCode, Problem> {
    connection.unsubscribe(&state, topic_in_path(&uri, PREFIX)?).await
}
