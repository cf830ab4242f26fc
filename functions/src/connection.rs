//! `connection`: what happens on a WebSocket, from `$connect` over its messages to `$disconnect`.

use std::collections::{BTreeMap, BTreeSet};

use aws::{
    connections::{Connection, ConnectionError, LIFETIME},
    error::{Chain, StoreError},
    post::Recipient,
};
use aws_lambda_events::apigw::{
    ApiGatewayProxyResponse, ApiGatewayRequestAuthorizer, ApiGatewayWebsocketProxyRequest,
    ApiGatewayWebsocketProxyRequestContext,
};
use domain::{
    access::{ANONYMOUS, Principal},
    connection::ConnectionId,
    protocol::{Action, ErrorCode, Refused, Reply, Request, SUBPROTOCOL},
    topic::Topic,
};
use jiff::Timestamp;
use lambda_http::http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use tracing::{debug, info, instrument, warn};

use crate::{app::App, replay::ReplayError, subscribe::Start};

/// Most events in one `replay`.
const MAX_REPLAY: u64 = 10_000;

/// Why an event could not be handled at all. The gateway answers the client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionEventError {
    /// Not an event of a WebSocket API.
    #[error("event has no {0}")]
    Missing(&'static str),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Handles one event of the WebSocket API.
///
/// # Errors
///
/// [`ConnectionEventError`]; on `$connect` the handshake then fails with 502.
#[instrument(name = "connection", skip_all, fields(connection.id))]
pub async fn handle(
    app: &App,
    now: Timestamp,
    event: ApiGatewayWebsocketProxyRequest,
) -> Result<ApiGatewayProxyResponse, ConnectionEventError> {
    let context = &event.request_context;
    let id = context.connection_id.as_deref();
    let id = ConnectionId::new(id.ok_or(ConnectionEventError::Missing("connectionId"))?);
    tracing::Span::current().record("connection.id", id.as_str());
    match context.event_type.as_deref() {
        Some("CONNECT") => connect(app, now, id, &event).await,
        Some("DISCONNECT") => {
            let shard = app.shard_of(&id).await?;
            app.tables.connections.close(shard, &id, now).await?;
            debug!(code = context.disconnect_status_code, "connection closed");
            Ok(answer(200))
        }
        Some("MESSAGE") => {
            let to = recipient(app, id, context)?;
            message(app, now, &to, context, event.body.as_deref().unwrap_or_default()).await;
            Ok(answer(200))
        }
        _ => Err(ConnectionEventError::Missing("eventType")),
    }
}

async fn connect(
    app: &App,
    now: Timestamp,
    id: ConnectionId,
    event: &ApiGatewayWebsocketProxyRequest,
) -> Result<ApiGatewayProxyResponse, ConnectionEventError> {
    let offered = event.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    let offered: Vec<&str> = offered
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let ours = offered.iter().any(|name| name.eq_ignore_ascii_case(SUBPROTOCOL));
    if !offered.is_empty() && !ours {
        return Ok(answer(400));
    }
    let shard = app.shard_of_new(&id);
    let to = recipient(app, id, &event.request_context)?;
    let principal = principal(&event.request_context.authorizer);
    let connection = Connection::open(to, shard, principal, now);
    match app.tables.connections.open(&connection).await {
        Ok(()) => {}
        Err(ConnectionError::Store(error)) => return Err(error.into()),
        // It closed before it opened: the gateway has already dropped it.
        Err(ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. }) => {
            return Ok(answer(410));
        }
    }
    info!(class = connection.principal.class, "connection opened");
    let mut answer = answer(200);
    if ours {
        answer.headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(answer)
}

/// Answers a message. Whatever goes wrong is told to the client, and never ends the connection.
async fn message(
    app: &App,
    now: Timestamp,
    to: &Recipient,
    context: &ApiGatewayWebsocketProxyRequestContext,
    body: &str,
) {
    let answered = if app.may_send(&to.id, now) {
        match Request::parse(body) {
            Ok(request) => {
                let id = request.id.clone();
                act(app, now, to, context, request).await.map_err(|refused| match refused {
                    Fault::Refused(refused) => Refused { id, ..refused },
                    Fault::Replay(error) => {
                        let (code, message) = match &error {
                            ReplayError::Store(_)
                            | ReplayError::Connection(ConnectionError::Store(_)) => {
                                (ErrorCode::Unavailable, "the database is away; try again")
                            }
                            _ => (ErrorCode::Internal, "the request could not be completed"),
                        };
                        match error {
                            ReplayError::Gone => debug!("connection went away"),
                            error => warn!(error = %Chain(&error), "request failed"),
                        }
                        Refused { id, code, message: message.to_owned(), topic: None }
                    }
                })
            }
            Err(refused) => Err(refused),
        }
    } else {
        let message = format!(
            "the connection may send {} messages a second; wait a second",
            app.limits.messages_per_second
        );
        Err(Refused { id: None, code: ErrorCode::RateLimited, message, topic: None })
    };
    if let Err(refused) = answered
        && let Err(error) = app.say(to, Reply::from(refused).to_json()).await
    {
        debug!(error = %Chain(&error), "connection could not be told of an error");
    }
}

/// Why a request was not done.
enum Fault {
    Refused(Refused),
    Replay(ReplayError),
}

impl From<ReplayError> for Fault {
    fn from(error: ReplayError) -> Self {
        Self::Replay(error)
    }
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Replay(error.into())
    }
}

impl From<ConnectionError> for Fault {
    fn from(error: ConnectionError) -> Self {
        Self::Replay(error.into())
    }
}

async fn act(
    app: &App,
    now: Timestamp,
    to: &Recipient,
    context: &ApiGatewayWebsocketProxyRequestContext,
    request: Request,
) -> Result<(), Fault> {
    let id = request.id;
    match request.action {
        Action::Hello => {
            let principal = principal(&context.authorizer);
            let connected = Timestamp::from_millisecond(context.connected_at).unwrap_or(now);
            let reply = Reply::Welcome {
                id,
                connection_id: to.id.clone(),
                connection_token: app.connection_tokens.make(&to.id),
                principal: principal.id,
                class: principal.class,
                limits: app.limits,
                // The item outlives the connection by ten minutes.
                expires_at: connected + LIFETIME - std::time::Duration::from_mins(10),
            };
            app.say(to, reply.to_json()).await?;
        }
        Action::Ping => app.say(to, Reply::Pong { id, at: now }.to_json()).await?,
        Action::List => {
            let shard = app.shard_of(&to.id).await?;
            let connection = app.tables.connections.get(shard, &to.id).await?;
            let topics = connection.map(|it| it.topics.into_keys().collect()).unwrap_or_default();
            app.say(to, Reply::Subscriptions { id, topics }.to_json()).await?;
        }
        Action::Subscribe { topics, since, last } => {
            subscribe(app, now, to, id, topics, &since, last).await?;
        }
        Action::Unsubscribe { topics } => {
            let topics = known(app, to, id.as_ref(), topics).await?;
            let wanted: BTreeSet<Topic> = topics.into_keys().collect();
            let left = if wanted.is_empty() {
                BTreeSet::new()
            } else {
                let shard = app.shard_of(&to.id).await?;
                app.tables.connections.leave(shard, &to.id, &wanted, now).await?
            };
            let topics = left.into_iter().collect();
            app.say(to, Reply::Unsubscribed { id, topics }.to_json()).await?;
        }
        Action::Replay { topic, from, to: last } => {
            if last - from >= MAX_REPLAY {
                let message = format!("a replay has at most {MAX_REPLAY} events");
                return Err(refuse(ErrorCode::BadRequest, message, Some(topic)));
            }
            let parsed = Topic::parse(&topic)
                .map_err(|error| refuse(ErrorCode::UnknownTopic, error.to_string(), Some(topic)))?;
            // What the topic does not have yet is no gap.
            let newest = app.tables.log.newest(&parsed).await?;
            let head = newest.map_or(0, |newest| newest.entry.last());
            app.replay(to, &parsed, from, last.min(head), now).await?;
        }
    }
    Ok(())
}

async fn subscribe(
    app: &App,
    now: Timestamp,
    to: &Recipient,
    id: Option<String>,
    topics: Vec<String>,
    since: &BTreeMap<String, u64>,
    last: Option<u64>,
) -> Result<(), Fault> {
    let mut wishes = BTreeMap::new();
    for (topic, spelled) in known(app, to, id.as_ref(), topics).await? {
        if let Some(near) = app.nearest_to_unknown(&topic, now).await? {
            let pair = topic.key().unwrap_or_default();
            let message = match near.is_empty() {
                true => format!("Coinbase has no pair {pair}"),
                false => format!("Coinbase has no pair {pair}; did you mean {}?", near.join(", ")),
            };
            let reply = Reply::Error {
                id: id.clone(),
                code: ErrorCode::UnknownTopic,
                message,
                topic: Some(spelled),
            };
            app.say(to, reply.to_json()).await?;
            continue;
        }
        let after = since.get(&spelled).or_else(|| since.get(topic.as_str()));
        let start = match (after, last) {
            (Some(seq), _) => Start::After(*seq),
            (None, Some(count)) if count > 0 => Start::Last(count),
            (None, _) => Start::Newest,
        };
        wishes.insert(topic, start);
    }
    if wishes.is_empty() {
        return Ok(());
    }
    let shard = app.shard_of(&to.id).await?;
    // Topics past the limit are refused one by one, so that the others are subscribed.
    while let Err(error) = app.subscribe(shard, to, &wishes, Some(id.clone()), now).await {
        let ReplayError::Connection(ConnectionError::TooManyTopics { has, limit }) = error else {
            return Err(error.into());
        };
        let Some((topic, _)) = wishes.pop_last() else { break };
        let reply = Reply::Error {
            id: id.clone(),
            code: ErrorCode::TooManyTopics,
            message: format!("the connection has {has} topics and may have {limit}"),
            topic: Some(topic.to_string()),
        };
        app.say(to, reply.to_json()).await?;
        if wishes.is_empty() {
            break;
        }
    }
    Ok(())
}

/// Reads topics, each with its spelling, and tells the client which of them are none.
async fn known(
    app: &App,
    to: &Recipient,
    id: Option<&String>,
    topics: Vec<String>,
) -> Result<BTreeMap<Topic, String>, Fault> {
    let mut known = BTreeMap::new();
    for text in topics {
        match Topic::parse(&text) {
            Ok(topic) => {
                known.insert(topic, text);
            }
            Err(error) => {
                let reply = Reply::Error {
                    id: id.cloned(),
                    code: ErrorCode::UnknownTopic,
                    message: error.to_string(),
                    topic: Some(text.chars().take(128).collect()),
                };
                app.say(to, reply.to_json()).await?;
            }
        }
    }
    Ok(known)
}

fn refuse(code: ErrorCode, message: String, topic: Option<String>) -> Fault {
    Fault::Refused(Refused { id: None, code, message, topic })
}

/// Whose connection it is, as `authorize` said at `$connect` and the gateway repeats since.
fn principal(authorizer: &ApiGatewayRequestAuthorizer) -> Principal {
    let text = |name| {
        let value = authorizer.fields.get(name).and_then(|value| value.as_str());
        value.filter(|text| !text.is_empty()).map(str::to_owned)
    };
    Principal {
        id: text("principalId").unwrap_or_else(|| ANONYMOUS.to_owned()),
        class: text("class").unwrap_or_else(|| ANONYMOUS.to_owned()),
    }
}

fn recipient(
    app: &App,
    id: ConnectionId,
    context: &ApiGatewayWebsocketProxyRequestContext,
) -> Result<Recipient, ConnectionEventError> {
    let part =
        |value: &Option<String>, name| value.clone().ok_or(ConnectionEventError::Missing(name));
    let domain = part(&context.domain_name, "domainName")?;
    let api = part(&context.apiid, "apiId")?;
    let stage = part(&context.stage, "stage")?;
    let endpoint = app.callback_url.fill(&domain, &api, &stage);
    Ok(Recipient { endpoint, id })
}

fn answer(status: i64) -> ApiGatewayProxyResponse {
    let mut answer = ApiGatewayProxyResponse::default();
    answer.status_code = status;
    answer.headers = HeaderMap::new();
    answer
}
