//! `/api/v1/subscribe`: the pairs of the caller's connection, and the list of its subscriptions.

use axum::{
    Json, Router,
    extract::{Path, Query, State, rejection::QueryRejection},
    http::StatusCode,
    response::Response,
    routing::{get, post},
};
use domain::{source::Family, topic::Topic};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{
    connection::{
        ConnectionHeaders, ConnectionProblems, OwnConnection, SinceQuery, SubscribeResponses,
        UnsubscribeResponses,
    },
    problem::Problem,
    state::RestState,
};

pub(super) fn router() -> Router<RestState> {
    Router::new()
        .route("/api/v1/subscribe", get(list))
        .route("/api/v1/subscribe/{pair}", post(subscribe_pair).delete(unsubscribe_pair))
}

/// Which of the pair's topics.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ChannelQuery {
    /// `ticker` (the default), `matches` or `level2`.
    channel: Option<String>,
}

/// The subscriptions of the caller's connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subscriptions {
    /// The id of the connection.
    connection_id: String,
    /// The topics that the connection is subscribed to.
    topics: Vec<String>,
}

/// Subscribes the caller's WebSocket connection to a pair.
#[utoipa::path(
    post,
    path = "/api/v1/subscribe/{pair}",
    params(
        ("pair" = String, Path, example = "BTC-USD"),
        ChannelQuery,
        SinceQuery,
        ConnectionHeaders
    ),
    responses(SubscribeResponses, ConnectionProblems)
)]
pub(super) async fn subscribe_pair(
    State(state): State<RestState>,
    Path(pair): Path<String>,
    connection: OwnConnection,
    query: Result<Query<ChannelQuery>, QueryRejection>,
    since: Result<Query<SinceQuery>, QueryRejection>,
) -> Result<Response, Problem> {
    let topic = pair_topic(&pair, query)?;
    connection.subscribe(&state, &topic, SinceQuery::of(since)?).await
}

/// Unsubscribes the caller's WebSocket connection from a pair.
#[utoipa::path(
    delete,
    path = "/api/v1/subscribe/{pair}",
    params(("pair" = String, Path, example = "BTC-USD"), ChannelQuery, ConnectionHeaders),
    responses(UnsubscribeResponses, ConnectionProblems)
)]
pub(super) async fn unsubscribe_pair(
    State(state): State<RestState>,
    Path(pair): Path<String>,
    connection: OwnConnection,
    query: Result<Query<ChannelQuery>, QueryRejection>,
) -> Result<StatusCode, Problem> {
    connection.unsubscribe(&state, pair_topic(&pair, query)?).await
}

/// Lists the subscriptions of the caller's WebSocket connection.
#[utoipa::path(
    get,
    path = "/api/v1/subscribe",
    params(ConnectionHeaders),
    responses((status = 200, body = Subscriptions), ConnectionProblems)
)]
pub(super) async fn list(
    State(state): State<RestState>,
    OwnConnection { id, .. }: OwnConnection,
) -> Result<Json<Subscriptions>, Problem> {
    let shard = state.app.shard_of(&id).await?;
    let connections = &state.app.tables.connections;
    let connection = connections.get(shard, &id).await?.ok_or_else(Problem::connection_closed)?;
    let topics = connection.topics.keys().map(Topic::to_string).collect();
    Ok(Json(Subscriptions { connection_id: id.to_string(), topics }))
}

fn pair_topic(
    pair: &str,
    query: Result<Query<ChannelQuery>, QueryRejection>,
) -> Result<Topic, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::unprocessable(rejection.body_text()))?;
    let channel = query.channel.as_deref().unwrap_or("ticker");
    if Family::Coinbase.channel(channel).is_none() {
        return Err(Problem::unprocessable("channel must be ticker, matches or level2"));
    }
    Topic::coinbase(channel, pair).map_err(|_| {
        Problem::unprocessable("a pair is written BASE-QUOTE in capital letters, such as BTC-USD")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn topic(pair: &str, channel: Option<&str>) -> Result<String, String> {
        let query = ChannelQuery { channel: channel.map(str::to_owned) };
        pair_topic(pair, Ok(Query(query)))
            .map(|topic| topic.to_string())
            .map_err(|problem| problem.detail)
    }

    #[test]
    fn the_channel_is_ticker_by_default_and_must_exist() {
        assert_eq!(topic("BTC-USD", None).as_deref(), Ok("coinbase/ticker/BTC-USD"));
        assert_eq!(topic("BTC-USD", Some("level2")).as_deref(), Ok("coinbase/level2/BTC-USD"));
        assert!(topic("BTC-USD", Some("full")).is_err_and(|detail| detail.contains("channel")));
        assert!(topic("btc", None).is_err_and(|detail| detail.contains("BASE-QUOTE")));
    }
}
