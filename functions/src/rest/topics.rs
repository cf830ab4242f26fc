//! `/api/v1/topics`: the catalog of topics.

use std::collections::BTreeSet;

use axum::{
    Extension, Json, Router,
    extract::{Query, State, rejection::QueryRejection},
    routing::get,
};
use domain::{access::Right, source::Family, topic::Topic};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{problem::Problem, state::RestState};
use crate::access::caller::Caller;

/// Largest number of topics in a response.
const MAX_TOPICS: usize = 2_000;

pub(super) fn router() -> Router<RestState> {
    Router::new().route("/api/v1/topics", get(topics))
}

/// Selects topics.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct TopicsQuery {
    /// Return only topics that contain this text. Case is ignored.
    q: Option<String>,
    /// Return only topics of this source: `coinbase`, `mastodon` or `system`.
    source: Option<String>,
}

/// The catalog of topics.
#[derive(Serialize, ToSchema)]
pub(super) struct Topics {
    /// The topics, in alphabetical order. A hashtag or a language is listed while it has subscribers.
    topics: Vec<TopicInfo>,
    /// Whether more topics match than are listed here.
    more: bool,
}

/// A topic of the catalog.
#[derive(Serialize, ToSchema)]
pub(super) struct TopicInfo {
    /// The topic, in canonical spelling.
    topic: String,
    /// Whether the topic is being fetched from its upstream.
    live: bool,
}

/// Lists the topics that the caller can subscribe to.
#[utoipa::path(
    get,
    path = "/api/v1/topics",
    params(TopicsQuery),
    responses((status = 200, body = Topics))
)]
pub(super) async fn topics(
    State(state): State<RestState>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<TopicsQuery>, QueryRejection>,
) -> Result<Json<Topics>, Problem> {
    let Query(query) = query.map_err(|rejection| Problem::unprocessable(rejection.body_text()))?;
    let control = &state.app.tables.control;
    let live = control.wanted().await?;
    let mut all: BTreeSet<Topic> = live.clone();
    all.extend(Topic::without_key());
    for product in state.app.catalog.products(state.now()).await?.iter().filter(|it| it.online) {
        all.extend(Topic::of_product(&product.id));
    }
    for source in control.sources().await? {
        if Family::of_source(&source.source) == Family::Mastodon {
            all.extend(Topic::mastodon_server(&source.source));
        }
    }
    let q = query.q.unwrap_or_default().to_lowercase();
    let rules = state.app.rules.current().await?;
    let mut found = all.iter().filter(|topic| {
        topic.as_str().to_lowercase().contains(&q)
            && query.source.as_deref().is_none_or(|source| source == topic.source())
            && rules.allows(&caller.principal, Right::Subscribe(topic))
    });
    let topics = found
        .by_ref()
        .take(MAX_TOPICS)
        .map(|topic| TopicInfo {
            live: live.contains(topic) || topic.family() == Family::System,
            topic: topic.to_string(),
        })
        .collect();
    Ok(Json(Topics { topics, more: found.next().is_some() }))
}
