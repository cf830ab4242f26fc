//! `connection`: what happens on a WebSocket, from `$connect` over its messages to `$disconnect`.

use std::collections::{BTreeMap, BTreeSet};

use aws::{
    connections::{Connection, ConnectionError, LIFETIME},
    error::{Chain, StoreError},
    post::Recipient,
};
use aws_lambda_events::apigw::{
    ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest,
    ApiGatewayWebsocketProxyRequestContext,
};
use domain::{
    access::{Limits, Principal, Right},
    connection::ConnectionId,
    protocol::{Action, ErrorCode, Refused, Reply, Request, SUBPROTOCOL, Token},
    topic::Topic,
};
use jiff::Timestamp;
use lambda_http::http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use tracing::{debug, info, instrument, warn};

use crate::{
    access::caller::Caller, access::identity::TokenError, access::rules::RulesError, app::App,
    connection::replay::ReplayError, connection::subscribe::Start,
};

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
    /// It is not known what is permitted.
    #[error(transparent)]
    Rules(#[from] RulesError),
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
            let caller = caller(context);
            message(app, now, &to, context, &caller, event.body.as_deref().unwrap_or_default())
                .await;
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
    if !app.origins.admit(&event.headers) {
        info!("connection refused: the page is from elsewhere");
        return Ok(answer(403));
    }
    let caller = caller(&event.request_context);
    let rules = app.in_force().await?;
    // The authorizer knew that, unless the rules have changed since.
    if !rules.allows(&caller.principal, Right::Connect) {
        return Ok(answer(403));
    }
    let shard = app.shard_of_new(&id);
    let to = recipient(app, id, &event.request_context)?;
    let limit = rules.limits_of(&caller.principal).connections;
    let counted_as = limit.map(|_| caller.counted_as);
    if let (Some(who), Some(limit)) = (&counted_as, limit)
        && !app.tables.quotas.open(who, &to.id, limit, &app.shards, now).await?
    {
        info!(class = caller.principal.class, "connection refused: there are too many");
        return Ok(answer(429));
    }
    let connection = Connection {
        token_expires_at: caller.token_expires_at,
        counted_as,
        ..Connection::open(to, shard, caller.principal, now)
    };
    if let Err(error) = app.tables.connections.open(&connection).await {
        if let Some(who) = &connection.counted_as {
            app.tables.quotas.close(who, &connection.recipient.id, now).await?;
        }
        return match error {
            ConnectionError::Store(error) => Err(error.into()),
            // It closed before it opened: the gateway has already dropped it.
            ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. } => Ok(answer(410)),
        };
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
    caller: &Caller,
    body: &str,
) {
    let answered = match admit(app, now, to, caller).await {
        Ok(()) => match Request::parse(body) {
            Ok(request) => {
                let id = request.id.clone();
                let done = act(app, now, to, context, caller, request).await;
                done.map_err(|fault| Refused { id, ..fault.told() })
            }
            Err(refused) => Err(refused),
        },
        Err(fault) => Err(fault.told()),
    };
    if let Err(refused) = answered
        && let Err(error) = app.say(to, Reply::from(refused).to_json()).await
    {
        debug!(error = %Chain(&error), "connection could not be told of an error");
    }
}

/// Whether a connection may send another message. Its class at the handshake counts.
async fn admit(app: &App, now: Timestamp, to: &Recipient, caller: &Caller) -> Result<(), Fault> {
    let rate = app.limits_of(&caller.principal).await.map_err(ReplayError::from)?;
    let rate = rate.messages_per_second;
    let who = format!("connection/{}", to.id);
    app.rates.admit(&who, rate, now).await.map_err(|_| {
        let message = format!("the connection may send {rate} messages a second; wait a second");
        refuse(ErrorCode::RateLimited, message, None)
    })
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

impl Fault {
    /// What the client is told. The cause goes to the log.
    fn told(self) -> Refused {
        let error = match self {
            Self::Refused(refused) => return refused,
            Self::Replay(error) => error,
        };
        let (code, message, topic) = match &error {
            ReplayError::Store(_)
            | ReplayError::Rules(_)
            | ReplayError::Connection(ConnectionError::Store(_)) => {
                (ErrorCode::Unavailable, "the database is away; try again", None)
            }
            ReplayError::Forbidden(topic) => {
                (ErrorCode::Forbidden, "the right to it was withdrawn", Some(topic.to_string()))
            }
            ReplayError::Gone
            | ReplayError::Busy
            | ReplayError::Post(_)
            | ReplayError::Connection(
                ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. },
            ) => (ErrorCode::Internal, "the request could not be completed", None),
        };
        match error {
            ReplayError::Gone => debug!("connection went away"),
            error => warn!(error = %Chain(&error), "request failed"),
        }
        Refused { id: None, code, message: message.to_owned(), topic }
    }
}

/// The connection as it stands: its class may have changed since the handshake.
async fn connection(app: &App, now: Timestamp, to: &Recipient) -> Result<Connection, Fault> {
    let shard = app.shard_of(&to.id).await?;
    let connection = app.tables.connections.get(shard, &to.id).await?;
    let connection = connection.ok_or(ReplayError::Gone)?;
    if connection.has_expired(now) {
        let message = "the token has expired, and the connection ends".to_owned();
        return Err(refuse(ErrorCode::Expired, message, None));
    }
    Ok(connection)
}

/// Whether a principal has a right to a topic; the refusal says so.
async fn permit(
    app: &App,
    principal: &Principal,
    right: Right<'_>,
    spelled: &str,
) -> Result<(), Fault> {
    if app.in_force().await.map_err(ReplayError::from)?.allows(principal, right) {
        return Ok(());
    }
    let message = match right {
        Right::Subscribe(_) => "you may not subscribe to this topic",
        Right::History(_) => "you may not have the past of this topic",
        Right::Connect | Right::Admin => "you may not do this",
    };
    let topic = spelled.chars().take(128).collect();
    Err(refuse(ErrorCode::Forbidden, message.to_owned(), Some(topic)))
}

async fn act(
    app: &App,
    now: Timestamp,
    to: &Recipient,
    context: &ApiGatewayWebsocketProxyRequestContext,
    caller: &Caller,
    request: Request,
) -> Result<(), Fault> {
    let id = request.id;
    match request.action {
        Action::Hello => {
            let at = connection(app, now, to).await?;
            let connected = Timestamp::from_millisecond(context.connected_at).unwrap_or(now);
            let reply = Reply::Welcome {
                id,
                connection_id: to.id.clone(),
                connection_token: app.connection_tokens.make(&to.id),
                limits: limits(app, caller, &at.principal).await?,
                principal: at.principal.id,
                class: at.principal.class,
                // The item outlives the connection by ten minutes.
                expires_at: connected + LIFETIME - std::time::Duration::from_mins(10),
                token_expires_at: at.token_expires_at,
            };
            app.say(to, reply.to_json()).await?;
        }
        Action::Ping => app.say(to, Reply::Pong { id, at: now }.to_json()).await?,
        Action::List => {
            let topics = connection(app, now, to).await?.topics.into_keys().collect();
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
            let parsed = Topic::parse(&topic).map_err(|error| {
                refuse(ErrorCode::UnknownTopic, error.to_string(), Some(topic.clone()))
            })?;
            let connection = connection(app, now, to).await?;
            let right = Right::History(&parsed);
            permit(app, &connection.principal, right, &topic).await?;
            let limits = limits(app, caller, &connection.principal).await?;
            // What the topic does not have yet is no gap.
            let newest = app.tables.log.newest(&parsed).await?;
            let head = newest.map_or(0, |newest| newest.entry.last());
            let range = from..=last.min(head);
            app.replay(&connection, right, range, limits.oldest(head), now).await?;
        }
        Action::Authenticate { token } => authenticate(app, now, to, caller, id, &token).await?,
    }
    Ok(())
}

/// What a connection may use. How often it may send was settled at the handshake.
async fn limits(app: &App, caller: &Caller, principal: &Principal) -> Result<Limits, Fault> {
    let rules = app.in_force().await.map_err(ReplayError::from)?;
    let Limits { messages_per_second, .. } = rules.limits_of(&caller.principal);
    Ok(Limits { messages_per_second, ..rules.limits_of(principal) })
}

/// Takes another token of the same principal. Whether the class that it names may have what the
/// connection is subscribed to is looked at by `push`, which sees that the item has changed.
async fn authenticate(
    app: &App,
    now: Timestamp,
    to: &Recipient,
    caller: &Caller,
    id: Option<String>,
    token: &Token,
) -> Result<(), Fault> {
    let identity = app.identities.check(&token.0, now).await.map_err(|error| {
        info!(error = %Chain(&error), "token refused");
        let (code, message) = match error {
            TokenError::IssuerAway(_) => {
                (ErrorCode::Unavailable, "the token cannot be checked at the moment; try again")
            }
            TokenError::Expired => (ErrorCode::Unauthorized, "the token has expired"),
            _ => (ErrorCode::Unauthorized, "the token is not good"),
        };
        refuse(code, message.to_owned(), None)
    })?;
    let connection = connection(app, now, to).await?;
    let principal = identity.principal;
    if principal.id != connection.principal.id {
        let message = "the token is somebody else's; connect again with it".to_owned();
        return Err(refuse(ErrorCode::Forbidden, message, None));
    }
    permit(app, &principal, Right::Connect, "").await.map_err(|_| {
        refuse(ErrorCode::Forbidden, "the class of the token may not connect".to_owned(), None)
    })?;
    let (shard, until) = (connection.shard, identity.expires_at);
    app.tables.connections.renew(shard, &to.id, &principal, until, now).await?;
    let reply = Reply::Authenticated {
        id,
        limits: limits(app, caller, &principal).await?,
        principal: principal.id,
        class: principal.class,
        token_expires_at: until,
    };
    Ok(app.say(to, reply.to_json()).await?)
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
    let connection = connection(app, now, to).await?;
    let mut wishes = BTreeMap::new();
    for (topic, spelled) in known(app, to, id.as_ref(), topics).await? {
        let after = since.get(&spelled).or_else(|| since.get(topic.as_str()));
        let start = match (after, last) {
            (Some(seq), _) => Start::After(*seq),
            (None, Some(count)) if count > 0 => Start::Last(count),
            (None, _) => Start::Newest,
        };
        let principal = &connection.principal;
        let mut permitted = permit(app, principal, Right::Subscribe(&topic), &spelled).await;
        if permitted.is_ok() && start.is_history() {
            permitted = permit(app, principal, Right::History(&topic), &spelled).await;
        }
        match permitted {
            Ok(()) => {}
            Err(Fault::Refused(refused)) => {
                let refused = Refused { id: id.clone(), ..refused };
                app.say(to, Reply::from(refused).to_json()).await?;
                continue;
            }
            Err(fault @ Fault::Replay(_)) => return Err(fault),
        }
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
        wishes.insert(topic, start);
    }
    if wishes.is_empty() {
        return Ok(());
    }
    // Topics past the limit are refused one by one, so that the others are subscribed.
    while let Err(error) = app.subscribe(&connection, &wishes, Some(id.clone()), now).await {
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
fn caller(context: &ApiGatewayWebsocketProxyRequestContext) -> Caller {
    Caller::read(&context.authorizer.fields, context.identity.source_ip.as_deref())
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
