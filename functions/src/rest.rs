//! `rest`: the REST interface under `/api/v1`, and the web page.

mod guard;
pub mod page;
mod policy;
pub mod problem;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use aws::{
    control::{Origin, SourceState},
    log::Entry,
};
use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{OriginalUri, Path, Query, Request, State, rejection::QueryRejection},
    http::{HeaderMap, Method, StatusCode, Uri},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use domain::{
    access::{Principal, Right},
    connection::ConnectionId,
    topic::{Topic, TopicKind},
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, OpenApi, ToSchema};

use crate::{
    access::caller::Caller,
    app::{App, Clock},
    connection::subscribe::Start,
    rest::page::Page,
    rest::problem::Problem,
};

/// Events in a page of history, unless the caller wants another number.
const DEFAULT_LIMIT: u64 = 100;

/// Most events in a page of history.
const MAX_LIMIT: u64 = 1_000;

/// About how many bytes of a page: Lambda answers at most 6 MB.
const PAGE_BYTES: usize = 512 * 1024;

/// Most topics in the catalogue's answer.
const MAX_TOPICS: usize = 2_000;

/// What the handlers are given.
#[derive(Clone)]
pub(crate) struct Rest {
    pub(crate) app: Arc<App>,
    pub(crate) clock: Clock,
    page: Page,
}

/// Everything under `/api/v1`, `/healthz`, and the page at all other addresses.
pub fn router(app: Arc<App>, clock: Clock) -> Router {
    let page = Page::new(app.websocket_url.as_ref());
    let rest = Rest { app, clock, page };
    Router::new()
        .route("/api/v1/subscribe", get(list))
        .route("/api/v1/subscribe/{pair}", post(subscribe_pair).delete(unsubscribe_pair))
        .route("/api/v1/subscriptions/{*topic}", post(subscribe).delete(unsubscribe))
        .route("/api/v1/history/{*topic}", get(history))
        .route("/api/v1/topics", get(topics))
        .route("/api/v1/status", get(status))
        .route("/api/v1/config", get(config))
        .route("/api/v1/policy", get(policy::show).put(policy::put))
        .route("/api/v1/openapi.json", get(openapi))
        .route("/healthz", get(health))
        .fallback(async |State(rest): State<Rest>, method: Method, uri: Uri, headers: HeaderMap| {
            rest.page.answer(&method, &uri, &headers)
        })
        .layer(middleware::from_fn(explain))
        .layer(middleware::from_fn_with_state(rest.clone(), guard::guard))
        .with_state(rest)
}

/// The router's own refusals, such as 405, as problems.
async fn explain(request: Request<Body>, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let bare = response.headers().get("content-type").is_none();
    if status == StatusCode::METHOD_NOT_ALLOWED && bare {
        let (parts, _) = response.into_parts();
        let mut problem =
            Problem::new(status, "this address does not take that method").into_response();
        if let Some(allow) = parts.headers.get("allow") {
            problem.headers_mut().insert("allow", allow.clone());
        }
        return problem;
    }
    response
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Headwater",
        description = "Public posts and market data in near real time. Errors are RFC 9457 problems.",
    ),
    paths(
        subscribe_pair,
        unsubscribe_pair,
        list,
        subscribe,
        unsubscribe,
        history,
        topics,
        status,
        config,
        policy::show,
        policy::put,
        health
    )
)]
struct Api;

async fn openapi() -> Json<utoipa::openapi::OpenApi> {
    Json(Api::openapi())
}

/// What a pair is wanted of.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ChannelQuery {
    /// `ticker` (unless given), `matches` or `level2`.
    channel: Option<String>,
}

/// A subscription of the caller's connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Subscription {
    /// The topic, in canonical spelling.
    #[schema(example = "coinbase/ticker/BTC-USD")]
    topic: String,
    /// The connection that gets the events.
    connection_id: String,
    /// The topic's newest number at that moment; 0 where it has no events yet.
    seq: u64,
}

/// The subscriptions of the caller's connection.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Subscriptions {
    /// The connection.
    connection_id: String,
    /// What it is subscribed to.
    topics: Vec<String>,
}

/// The headers by which a caller names its connection.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code)]
struct ConnectionHeaders {
    /// `connectionId` of the `welcome` message.
    #[param(rename = "X-Connection-Id")]
    connection_id: String,
    /// `connectionToken` of the `welcome` message.
    #[param(rename = "X-Connection-Token")]
    connection_token: String,
}

/// Starts a pair on the caller's WebSocket connection.
#[utoipa::path(
    post,
    path = "/api/v1/subscribe/{pair}",
    params(("pair" = String, Path, example = "BTC-USD"), ChannelQuery, ConnectionHeaders),
    responses(
        (status = 201, description = "Subscribed", body = Subscription),
        (status = 200, description = "Was subscribed already", body = Subscription),
        (status = 401, description = "No connection is named", body = Problem),
        (status = 403, description = "The token is not the connection's, or its class may not", body = Problem),
        (status = 404, description = "No such pair", body = Problem),
        (status = 409, description = "The connection has as many topics as it may", body = Problem),
        (status = 410, description = "The connection is closed", body = Problem),
        (status = 422, description = "That is no pair, or no channel", body = Problem),
    )
)]
async fn subscribe_pair(
    State(rest): State<Rest>,
    Path(pair): Path<String>,
    query: Result<Query<ChannelQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = rest.caller(&headers)?;
    rest.subscribe(&id, &pair_topic(&pair, query)?).await
}

/// Stops a pair on the caller's WebSocket connection.
#[utoipa::path(
    delete,
    path = "/api/v1/subscribe/{pair}",
    params(("pair" = String, Path, example = "BTC-USD"), ChannelQuery, ConnectionHeaders),
    responses(
        (status = 204, description = "No longer subscribed"),
        (status = 401, description = "No connection is named", body = Problem),
        (status = 403, description = "The token is not the connection's", body = Problem),
        (status = 404, description = "Was not subscribed", body = Problem),
        (status = 410, description = "The connection is closed", body = Problem),
        (status = 422, description = "That is no pair, or no channel", body = Problem),
    )
)]
async fn unsubscribe_pair(
    State(rest): State<Rest>,
    Path(pair): Path<String>,
    query: Result<Query<ChannelQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let id = rest.caller(&headers)?;
    rest.unsubscribe(&id, pair_topic(&pair, query)?).await
}

/// Lists what the caller's WebSocket connection is subscribed to.
#[utoipa::path(
    get,
    path = "/api/v1/subscribe",
    params(ConnectionHeaders),
    responses(
        (status = 200, body = Subscriptions),
        (status = 401, description = "No connection is named", body = Problem),
        (status = 403, description = "The token is not the connection's", body = Problem),
        (status = 410, description = "The connection is closed", body = Problem),
    )
)]
async fn list(
    State(rest): State<Rest>,
    headers: HeaderMap,
) -> Result<Json<Subscriptions>, Problem> {
    let id = rest.caller(&headers)?;
    let shard = rest.app.shard_of(&id).await?;
    let connection = rest.app.tables.connections.get(shard, &id).await?.ok_or_else(closed)?;
    let topics = connection.topics.keys().map(Topic::to_string).collect();
    Ok(Json(Subscriptions { connection_id: id.to_string(), topics }))
}

/// Starts any topic on the caller's WebSocket connection.
#[utoipa::path(
    post,
    path = "/api/v1/subscriptions/{topic}",
    params(("topic" = String, Path, example = "mastodon/public"), ConnectionHeaders),
    responses(
        (status = 201, description = "Subscribed", body = Subscription),
        (status = 200, description = "Was subscribed already", body = Subscription),
        (status = 401, description = "No connection is named", body = Problem),
        (status = 403, description = "The token is not the connection's, or its class may not", body = Problem),
        (status = 404, description = "No such topic", body = Problem),
        (status = 409, description = "The connection has as many topics as it may", body = Problem),
        (status = 410, description = "The connection is closed", body = Problem),
        (status = 422, description = "That is no topic", body = Problem),
    )
)]
async fn subscribe(
    State(rest): State<Rest>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let id = rest.caller(&headers)?;
    rest.subscribe(&id, &path_topic(&uri, "/api/v1/subscriptions/")?).await
}

/// Stops any topic on the caller's WebSocket connection.
#[utoipa::path(
    delete,
    path = "/api/v1/subscriptions/{topic}",
    params(("topic" = String, Path, example = "mastodon/public"), ConnectionHeaders),
    responses(
        (status = 204, description = "No longer subscribed"),
        (status = 401, description = "No connection is named", body = Problem),
        (status = 403, description = "The token is not the connection's", body = Problem),
        (status = 404, description = "Was not subscribed", body = Problem),
        (status = 410, description = "The connection is closed", body = Problem),
        (status = 422, description = "That is no topic", body = Problem),
    )
)]
async fn unsubscribe(
    State(rest): State<Rest>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let id = rest.caller(&headers)?;
    rest.unsubscribe(&id, path_topic(&uri, "/api/v1/subscriptions/")?).await
}

/// Which events of a topic.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct HistoryQuery {
    /// Only events with a number above this.
    after: Option<u64>,
    /// Only events with a number below this; without `after`, the newest of them.
    before: Option<u64>,
    /// At most this many events: 1 to 1000, 100 unless given.
    limit: Option<u64>,
}

/// A page of a topic's events.
#[derive(Serialize, ToSchema)]
struct History {
    /// The topic, in canonical spelling.
    topic: String,
    /// The events, oldest first.
    events: Vec<Past>,
    /// `after` of the next page; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<u64>,
}

/// An event of the past.
#[derive(Serialize, ToSchema)]
struct Past {
    /// Its number.
    seq: u64,
    /// When it was numbered.
    #[schema(format = DateTime)]
    at: String,
    /// The event itself.
    #[schema(value_type = Object)]
    event: Box<RawValue>,
}

/// Returns events of a topic from the log.
#[utoipa::path(
    get,
    path = "/api/v1/history/{topic}",
    params(("topic" = String, Path, example = "coinbase/ticker/BTC-USD"), HistoryQuery),
    responses(
        (status = 200, body = History),
        (status = 403, description = "The caller's class may not", body = Problem),
        (status = 404, description = "No such topic", body = Problem),
        (status = 422, description = "That is no topic, or no number", body = Problem),
    )
)]
async fn history(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    OriginalUri(uri): OriginalUri,
    query: Result<Query<HistoryQuery>, QueryRejection>,
) -> Result<Json<History>, Problem> {
    let topic = path_topic(&uri, "/api/v1/history/")?;
    let Query(query) = query.map_err(|rejection| unprocessable(rejection.body_text()))?;
    let limit = query.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        return Err(unprocessable(format!("limit must be between 1 and {MAX_LIMIT}")));
    }
    let now = (rest.clock)();
    rest.permit(&caller.principal, Right::History(&topic)).await?;
    rest.known(&topic, now).await?;
    let log = &rest.app.tables.log;
    let head = log.newest(&topic).await?.map_or(0, |newest| newest.entry.last());
    let to = query.before.map_or(head, |before| before.saturating_sub(1).min(head));
    let from = match (query.after, query.before) {
        (Some(after), _) => after.saturating_add(1),
        (None, Some(_)) => (to + 1).saturating_sub(limit).max(1),
        (None, None) => log.oldest(&topic, now).await?.unwrap_or(head + 1),
    };
    let from = from.max(rest.app.limits_of(&caller.principal).await?.oldest(head));
    let mut page = History { topic: topic.to_string(), events: Vec::new(), next: None };
    if from > to {
        return Ok(Json(page));
    }
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
            let event = serde_json::from_slice(&event).map_err(|error| {
                aws::error::StoreError::Corrupt { table: "events", source: error.into() }
            })?;
            // As live frames spell it.
            let at = format!("{:.6}", frame.at());
            page.events.push(Past { seq, at, event });
        }
    }
    page.next = (last < to).then_some(last);
    Ok(Json(page))
}

/// Which topics.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct TopicsQuery {
    /// Only topics that contain this, in any case.
    q: Option<String>,
    /// Only topics of this source: `coinbase`, `mastodon` or `system`.
    source: Option<String>,
}

/// The catalogue.
#[derive(Serialize, ToSchema)]
struct Topics {
    /// The topics, in alphabetical order. Hashtags and languages are named once somebody wants them.
    topics: Vec<TopicInfo>,
    /// Whether there are more than are named here.
    more: bool,
}

/// A topic of the catalogue.
#[derive(Serialize, ToSchema)]
struct TopicInfo {
    /// Its name.
    topic: String,
    /// Whether it is fetched from its upstream at the moment.
    live: bool,
}

/// Returns what the caller can subscribe to.
#[utoipa::path(
    get,
    path = "/api/v1/topics",
    params(TopicsQuery),
    responses((status = 200, body = Topics))
)]
async fn topics(
    State(rest): State<Rest>,
    Extension(caller): Extension<Caller>,
    query: Result<Query<TopicsQuery>, QueryRejection>,
) -> Result<Json<Topics>, Problem> {
    let Query(query) = query.map_err(|rejection| unprocessable(rejection.body_text()))?;
    let live = rest.app.tables.control.wanted().await?;
    let mut all: BTreeSet<Topic> = live.clone();
    all.extend([Topic::mastodon_public(), Topic::system_sources()]);
    for product in rest.app.products((rest.clock)()).await?.iter().filter(|it| it.online) {
        let channels = ["ticker", "matches", "level2"];
        all.extend(channels.iter().filter_map(|it| Topic::coinbase(it, &product.id).ok()));
    }
    for source in rest.app.tables.control.sources().await? {
        if source.source != "coinbase" {
            all.extend(Topic::mastodon_server(&source.source));
        }
    }
    let q = query.q.unwrap_or_default().to_lowercase();
    let rules = rest.app.in_force().await?;
    let mut found = all.iter().filter(|topic| {
        topic.as_str().to_lowercase().contains(&q)
            && query.source.as_deref().is_none_or(|source| source == topic.source())
            && rules.allows(&caller.principal, Right::Subscribe(topic))
    });
    let topics = found.by_ref().take(MAX_TOPICS).map(|topic| TopicInfo {
        live: live.contains(topic) || topic.kind() == TopicKind::System,
        topic: topic.to_string(),
    });
    let topics = topics.collect();
    Ok(Json(Topics { topics, more: found.next().is_some() }))
}

/// How the service is doing.
#[derive(Serialize, ToSchema)]
struct Status {
    /// The version of the program.
    version: &'static str,
    /// `live` or `simulated`; absent before the first start of a poller.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    data: Option<Origin>,
    /// What each source is doing.
    #[schema(value_type = Vec<Object>)]
    sources: Vec<SourceStatus>,
    /// How many topics are fetched from their upstreams.
    topics: usize,
    /// How many connections are open.
    connections: usize,
}

/// A source in the status.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SourceStatus {
    #[serde(flatten)]
    state: SourceState,
    /// Milliseconds since the newest event of the source's topics; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<i64>,
}

/// Returns what the sources are doing.
#[utoipa::path(get, path = "/api/v1/status", responses((status = 200, body = Status)))]
async fn status(State(rest): State<Rest>) -> Result<Json<Status>, Problem> {
    let Rest { app, clock, .. } = &rest;
    let now = clock();
    let control = &app.tables.control;
    let wanted = control.wanted().await?;
    let mut newest: BTreeMap<&str, Timestamp> = BTreeMap::new();
    for topic in &wanted {
        if let Some(Entry::Frame(frame)) = app.tables.log.newest(topic).await?.map(|it| it.entry) {
            let at = newest.entry(topic.source()).or_insert(frame.at());
            *at = (*at).max(frame.at());
        }
    }
    let sources = control.sources().await?.into_iter().map(|state| {
        let family = if state.source == "coinbase" { "coinbase" } else { "mastodon" };
        let lag = newest.get(family).map(|at| now.as_millisecond() - at.as_millisecond());
        SourceStatus { state, lag_ms: lag.map(|lag| lag.max(0)) }
    });
    let sources = sources.collect();
    let mut connections = 0;
    for shard in app.shards.all() {
        let all = app.tables.connections.all(shard).await?;
        connections += all.iter().filter(|connection| !connection.gone).count();
    }
    Ok(Json(Status {
        version: env!("CARGO_PKG_VERSION"),
        data: control.origin().await?,
        sources,
        topics: wanted.len(),
        connections,
    }))
}

/// What a page has to know before it connects.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct PageConfig {
    /// The WebSocket's address; absent where it is `/live` at this host.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, example = "wss://live.example.org")]
    websocket_url: Option<Arc<str>>,
}

/// Returns what a page has to know before it connects.
#[utoipa::path(get, path = "/api/v1/config", responses((status = 200, body = PageConfig)))]
async fn config(State(rest): State<Rest>) -> Json<PageConfig> {
    Json(PageConfig { websocket_url: rest.app.websocket_url.clone() })
}

/// Whether it can serve.
#[utoipa::path(
    get,
    path = "/healthz",
    responses((status = 200, description = "It can"), (status = 503, description = "It cannot"))
)]
async fn health(State(rest): State<Rest>) -> Result<&'static str, Problem> {
    rest.app.tables.check().await.map_err(|_| {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the database does not answer")
    })?;
    Ok("ok\n")
}

impl Rest {
    /// The connection that the caller names and proves to own.
    fn caller(&self, headers: &HeaderMap) -> Result<ConnectionId, Problem> {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let (Some(id), Some(token)) = (header("x-connection-id"), header("x-connection-token"))
        else {
            return Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "X-Connection-Id and X-Connection-Token must name a connection; \
                 the welcome message has both",
            ));
        };
        let id = ConnectionId::new(id);
        if !self.app.connection_tokens.check(&id, token) {
            return Err(Problem::new(
                StatusCode::FORBIDDEN,
                "X-Connection-Token is not that of the connection",
            ));
        }
        Ok(id)
    }

    /// Refuses what the rules do not permit.
    pub(crate) async fn permit(
        &self,
        principal: &Principal,
        right: Right<'_>,
    ) -> Result<(), Problem> {
        if self.app.in_force().await?.allows(principal, right) {
            return Ok(());
        }
        let what = match right {
            Right::Connect => "connect".to_owned(),
            Right::Admin => "see or replace the rules".to_owned(),
            Right::Subscribe(topic) => format!("subscribe to {topic}"),
            Right::History(topic) => format!("have the past of {topic}"),
        };
        Err(Problem::new(StatusCode::FORBIDDEN, format!("you may not {what}")))
    }

    async fn known(&self, topic: &Topic, now: Timestamp) -> Result<(), Problem> {
        match self.app.nearest_to_unknown(topic, now).await? {
            None => Ok(()),
            Some(nearest) => {
                let pair = topic.key().unwrap_or_default();
                let problem =
                    Problem::new(StatusCode::NOT_FOUND, format!("Coinbase has no pair {pair}"));
                Err(problem.with_nearest(nearest))
            }
        }
    }

    async fn subscribe(&self, id: &ConnectionId, topic: &Topic) -> Result<Response, Problem> {
        let now = (self.clock)();
        let shard = self.app.shard_of(id).await?;
        let connection = self.app.tables.connections.get(shard, id).await?.ok_or_else(closed)?;
        if connection.has_expired(now) {
            let detail = "the connection's token has expired, and it ends";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        self.permit(&connection.principal, Right::Subscribe(topic)).await?;
        self.known(topic, now).await?;
        let subscription = |seq| {
            let (topic, connection_id) = (topic.to_string(), id.to_string());
            Json(Subscription { topic, connection_id, seq })
        };
        if connection.topics.contains_key(topic) {
            let newest = self.app.tables.log.newest(topic).await?;
            let seq = newest.map_or(0, |newest| newest.entry.last());
            return Ok((StatusCode::OK, subscription(seq)).into_response());
        }
        let wishes = BTreeMap::from([(topic.clone(), Start::Newest)]);
        let outcome = self.app.subscribe(&connection, &wishes, None, now).await?;
        let seq = outcome.topics.first().map_or(0, |subscribed| subscribed.seq);
        let status = if outcome.added.is_empty() { StatusCode::OK } else { StatusCode::CREATED };
        Ok((status, subscription(seq)).into_response())
    }

    async fn unsubscribe(&self, id: &ConnectionId, topic: Topic) -> Result<StatusCode, Problem> {
        let now = (self.clock)();
        let shard = self.app.shard_of(id).await?;
        let name = topic.to_string();
        let topics = BTreeSet::from([topic]);
        let left = self.app.tables.connections.leave(shard, id, &topics, now).await?;
        if left.is_empty() {
            let detail = format!("the connection is not subscribed to {name}");
            return Err(Problem::new(StatusCode::NOT_FOUND, detail));
        }
        Ok(StatusCode::NO_CONTENT)
    }
}

fn pair_topic(
    pair: &str,
    query: Result<Query<ChannelQuery>, QueryRejection>,
) -> Result<Topic, Problem> {
    let Query(query) = query.map_err(|rejection| unprocessable(rejection.body_text()))?;
    let channel = query.channel.as_deref().unwrap_or("ticker");
    if !["ticker", "matches", "level2"].contains(&channel) {
        return Err(unprocessable("channel must be ticker, matches or level2"));
    }
    Topic::coinbase(channel, pair)
        .map_err(|_| unprocessable("a pair is BASE-QUOTE in capitals, such as BTC-USD"))
}

/// The topic in a path, from the path as it was sent: topics are percent-encoded themselves.
fn path_topic(uri: &Uri, prefix: &str) -> Result<Topic, Problem> {
    // API Gateway puts the stage before the path.
    let path = uri.path();
    let at = path.find(prefix).map_or(0, |at| at + prefix.len());
    let text = path[at..].replace("%2F", "/").replace("%2f", "/");
    Topic::parse(&text).map_err(|error| match error {
        domain::topic::TopicError::NoSuchChannel => {
            Problem::new(StatusCode::NOT_FOUND, error.to_string())
        }
        domain::topic::TopicError::TooLong
        | domain::topic::TopicError::Malformed
        | domain::topic::TopicError::BadKey => unprocessable(error.to_string()),
    })
}

fn unprocessable(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
}

fn closed() -> Problem {
    Problem::new(StatusCode::GONE, "the connection is closed")
}
