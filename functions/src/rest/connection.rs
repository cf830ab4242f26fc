//! The caller's own WebSocket connection, which two headers identify.

use std::collections::{BTreeMap, BTreeSet};

use axum::{
    Json,
    extract::{FromRequestParts, Query, rejection::QueryRejection},
    http::{StatusCode, request::Parts},
    response::{IntoResponse, Response},
};
use domain::{
    access::Right,
    connection::ConnectionId,
    protocol::{GapReason, MAX_LOG_BYTES},
    topic::Topic,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, IntoResponses, ToSchema};

use super::{problem::Problem, state::RestState};
use crate::{
    access::caller::{Caller, counted_as},
    subscription::{Position, Start},
};

/// The headers that identify the caller's connection.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "describes the headers in the OpenAPI document")]
pub(super) struct ConnectionHeaders {
    /// The `connectionId` of the `welcome` message.
    #[param(rename = "X-Connection-Id")]
    connection_id: String,
    /// The `connectionToken` of the `welcome` message.
    #[param(rename = "X-Connection-Token")]
    connection_token: String,
}

/// Where a subscription starts.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct SinceQuery {
    /// Start after the event with this sequence number. By default, start with the next event.
    since: Option<u64>,
    /// The id of the log that `since` belongs to.
    log: Option<String>,
}

impl SinceQuery {
    /// Returns the query of a request.
    pub(super) fn of(query: Result<Query<Self>, QueryRejection>) -> Result<Self, Problem> {
        let Query(query) =
            query.map_err(|rejection| Problem::unprocessable(rejection.body_text()))?;
        if query.log.as_ref().is_some_and(|log| log.len() > MAX_LOG_BYTES) {
            let detail = format!("log must have at most {MAX_LOG_BYTES} bytes");
            return Err(Problem::unprocessable(detail));
        }
        Ok(query)
    }
}

/// The errors of every call that acts on the caller's connection.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses in the OpenAPI document")]
pub(super) enum ConnectionProblems {
    /// The headers that identify a connection are missing
    #[response(status = 401)]
    Unidentified(Problem),
    /// The token does not belong to the connection, or the connection does not have permission
    #[response(status = 403)]
    Forbidden(Problem),
    /// The connection is closed
    #[response(status = 410)]
    Closed(Problem),
}

/// The responses of a call that adds a subscription.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses in the OpenAPI document")]
pub(super) enum SubscribeResponses {
    /// The connection is now subscribed
    #[response(status = 201)]
    Created(Subscription),
    /// The connection was already subscribed
    #[response(status = 200)]
    Existing(Subscription),
    /// The pair or the topic does not exist
    #[response(status = 404)]
    Unknown(Problem),
    /// The connection has reached its topic limit
    #[response(status = 409)]
    TooManyTopics(Problem),
    /// The pair, the channel or the topic is malformed
    #[response(status = 422)]
    Malformed(Problem),
}

/// The responses of a call that removes a subscription.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "describes responses in the OpenAPI document")]
pub(super) enum UnsubscribeResponses {
    /// The subscription is removed
    #[response(status = 204)]
    Removed,
    /// The connection was not subscribed, or the topic does not exist
    #[response(status = 404)]
    NotSubscribed(Problem),
    /// The pair, the channel or the topic is malformed
    #[response(status = 422)]
    Malformed(Problem),
}

/// A subscription of the caller's connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Subscription {
    /// The topic, in canonical spelling.
    #[schema(example = "coinbase/ticker/BTC-USD")]
    topic: String,
    /// The id of the connection that receives the events.
    connection_id: String,
    /// The id of the log, which all numbers belong to.
    log: String,
    /// The topic's newest sequence number at the time of the call; 0 if it has no events.
    seq: u64,
    /// Only with `since`: whether all events after it will follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    recovered: Option<bool>,
    /// Events that will not follow. A `gap` on the connection reports other missing events.
    #[serde(skip_serializing_if = "Option::is_none")]
    gap: Option<Gap>,
}

/// Events that will not be sent.
#[derive(Serialize, ToSchema)]
pub(super) struct Gap {
    /// The first number. If the log ends before `since`, it is 1; 0 if the log has no events.
    from: u64,
    /// The last number. With reason `reset`, it is the newest number, after which the subscription starts.
    to: u64,
    /// `reset`: `since` does not belong to the log. `expired`: the caller cannot read events of that age.
    #[schema(value_type = String)]
    reason: GapReason,
}

/// A connection that the caller has proved to be its own.
pub(super) struct OwnConnection {
    pub id: ConnectionId,
    /// The name under which the caller's requests are counted.
    caller_counted_as: String,
}

impl FromRequestParts<RestState> for OwnConnection {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &RestState) -> Result<Self, Problem> {
        let header = |name| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(token)) = (header("x-connection-id"), header("x-connection-token"))
        else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "X-Connection-Id and X-Connection-Token are required; \
                 the welcome message contains both",
            ));
        };
        let id = ConnectionId::new(id);
        if !state.app.connection_tokens.check(&id, token) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "X-Connection-Token does not belong to this connection",
            ));
        }
        let caller = parts.extensions.get::<Caller>();
        let caller_counted_as = caller.map(|caller| caller.counted_as.clone()).unwrap_or_default();
        Ok(Self { id, caller_counted_as })
    }
}

impl OwnConnection {
    /// Subscribes the connection to a topic, from its next event on or after an earlier event.
    pub(super) async fn subscribe(
        &self,
        state: &RestState,
        topic: &Topic,
        SinceQuery { since, log }: SinceQuery,
    ) -> Result<Response, Problem> {
        let Self { id, caller_counted_as } = self;
        let now = state.now();
        let tables = &state.app.tables;
        let shard = state.app.shard_of(id).await?;
        let connection =
            tables.connections.get(shard, id).await?.ok_or_else(Problem::connection_closed)?;
        if connection.has_expired(now) {
            let detail = "the token of the connection has expired; the connection is closing";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        state.permit(&connection.principal, Right::Subscribe(topic)).await?;
        if since.is_some() {
            state.permit(&connection.principal, Right::History(topic)).await?;
        }
        state.check_pair(topic, now).await?;
        let our_log = state.app.log_id.get().await?;
        let subscription = |seq, recovered, gap| {
            Json(Subscription {
                topic: topic.to_string(),
                connection_id: id.to_string(),
                log: our_log.to_string(),
                seq,
                recovered,
                gap,
            })
        };
        let start = since.map_or(Start::Newest, |seq| Start::after(seq, log.as_deref(), our_log));
        if start == Start::Newest && connection.topics.contains_key(topic) {
            let newest = tables.log.newest(topic).await?;
            let seq = newest.map_or(0, |newest| newest.entry.last());
            return Ok((StatusCode::OK, subscription(seq, None, None)).into_response());
        }
        let limits = state.app.rules.current().await?.limits_of(&connection.principal);
        let starts = BTreeMap::from([(topic.clone(), start)]);
        let mut positions = state.app.locate(&connection.principal, &starts, now).await?;
        let expected = positions.iter().map(|position| position.bytes).sum();
        let counted_as = match &connection.counted_as {
            Some(counted_as) => counted_as.clone(),
            None => counted_as(&connection.principal, || caller_counted_as.clone()),
        };
        let grant = state.begin_history(&counted_as, limits, expected, now)?;
        let joined = state.app.subscribe(&connection, &mut positions, now).await?;
        if let Some(grant) = grant {
            // `push` sends it.
            grant.note(positions.iter().map(|position| position.bytes).sum());
        }
        let (seq, recovered) = joined.topics.first().map_or((0, None), |it| (it.seq, it.recovered));
        let gap = positions.first().and_then(Position::gap);
        let gap = gap.map(|(from, to, reason)| Gap { from, to, reason });
        let status = if joined.added.is_empty() { StatusCode::OK } else { StatusCode::CREATED };
        Ok((status, subscription(seq, recovered, gap)).into_response())
    }

    /// Removes the connection's subscription to a topic.
    pub(super) async fn unsubscribe(
        &self,
        state: &RestState,
        topic: Topic,
    ) -> Result<StatusCode, Problem> {
        let id = &self.id;
        let shard = state.app.shard_of(id).await?;
        let topics = BTreeSet::from([topic]);
        let removed = state.app.tables.connections.leave(shard, id, &topics).await?;
        if removed.is_empty() {
            let names: Vec<&str> = topics.iter().map(Topic::as_str).collect();
            let detail = format!("the connection is not subscribed to {}", names.join(", "));
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
        Ok(StatusCode::NO_CONTENT)
    }
}
