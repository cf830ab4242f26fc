//! Messages: each is one request of the client.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use domain::{
    access::Right,
    chain::Chain,
    connection::LIFETIME,
    protocol::{Action, ErrorCode, ErrorReply, Reply, Request},
    topic::Topic,
};
use tokio::time;
use tracing::{debug, warn};

use super::{
    authenticate::authenticate,
    client::Client,
    error::RequestError,
    replay::replay,
    subscribe::{parse_topics, subscribe},
};
use crate::access::history::EVENT_BYTES;

/// Largest number of events in one `replay`.
const MAX_REPLAY: u64 = 10_000;

/// How long an item outlives its connection.
const ITEM_MARGIN: Duration = Duration::from_mins(10);

/// How long the count of messages may take. After that, a message is admitted.
const ADMIT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a `pong` waits for the newest numbers. Clients take a server that does not answer for dead.
const HEADS_TIMEOUT: Duration = Duration::from_secs(3);

/// Handles a message. Errors are sent to the client and never end the connection.
pub(super) async fn handle(client: &Client<'_>, body: &str) {
    if let Err(reply) = try_handle(client, body).await
        && let Err(error) = client.reply(&Reply::Error(reply)).await
    {
        debug!(error = %Chain(&error), "could not send an error to the client");
    }
}

async fn try_handle(client: &Client<'_>, body: &str) -> Result<(), ErrorReply> {
    admit(client).await.map_err(RequestError::into_reply)?;
    let request = Request::parse(body)?;
    let id = request.id.clone();
    act(client, request).await.map_err(|error| ErrorReply { id, ..error.into_reply() })
}

/// Checks the message rate of the connection, which its class at the handshake determines.
async fn admit(client: &Client<'_>) -> Result<(), RequestError> {
    let limits = client.app.rules.limits_of(&client.caller.principal).await;
    let rate = limits.messages_per_second;
    let name = format!("connection/{}", client.recipient.id);
    let admitted = client.app.rates.admit(&name, rate, client.now);
    let Ok(admitted) = time::timeout(ADMIT_TIMEOUT, admitted).await else {
        warn!("the database did not count a message in time; the message is admitted");
        return Ok(());
    };
    admitted.map_err(|_| {
        let message = format!("the limit is {rate} messages per second; wait a second");
        RequestError::rejected(ErrorCode::RateLimited, message, None)
    })
}

async fn act(client: &Client<'_>, request: Request) -> Result<(), RequestError> {
    let id = request.id;
    match request.action {
        Action::Hello => welcome(client, id).await,
        Action::Ping => pong(client, id).await,
        Action::List => {
            let connection = client.connection().await?;
            let heads = client.app.heads(connection.topics.keys().cloned()).await?;
            let topics = connection.topics.into_keys().collect();
            Ok(client.reply(&Reply::Subscriptions { id, topics, heads }).await?)
        }
        Action::Subscribe { topics, since, log, last } => {
            subscribe(client, id, topics, &since, log.as_deref(), last).await
        }
        Action::Unsubscribe { topics } => unsubscribe(client, id, topics).await,
        Action::Replay { topic, from, to } => resend(client, topic, from, to).await,
        Action::Authenticate { token } => authenticate(client, id, &token).await,
    }
}

async fn welcome(client: &Client<'_>, id: Option<String>) -> Result<(), RequestError> {
    let connection = client.connection().await?;
    let connection_id = client.recipient.id.clone();
    let reply = Reply::Welcome {
        id,
        log: client.app.log_id.get().await?.clone(),
        connection_token: client.app.connection_tokens.make(&connection_id),
        connection_id,
        limits: client.limits(&connection.principal).await?,
        principal: connection.principal.id,
        class: connection.principal.class,
        expires_at: client.connected_at + LIFETIME - ITEM_MARGIN,
        token_expires_at: connection.token_expires_at,
    };
    Ok(client.reply(&reply).await?)
}

/// Answers a `ping`, also while the database is unavailable.
async fn pong(client: &Client<'_>, id: Option<String>) -> Result<(), RequestError> {
    let heads = match time::timeout(HEADS_TIMEOUT, heads(client)).await {
        Ok(Ok(heads)) => Some(heads),
        Ok(Err(error)) => {
            warn!(error = %Chain(&error), "could not read the newest numbers; the pong has none");
            None
        }
        Err(_) => {
            warn!("the database did not respond in time; the pong has no newest numbers");
            None
        }
    };
    Ok(client.reply(&Reply::Pong { id, at: client.now, heads }).await?)
}

/// Returns the newest number of each topic of the connection.
async fn heads(client: &Client<'_>) -> Result<BTreeMap<Topic, u64>, RequestError> {
    let topics = client.connection().await?.topics;
    Ok(client.app.heads(topics.into_keys()).await?)
}

async fn unsubscribe(
    client: &Client<'_>,
    id: Option<String>,
    topics: Vec<String>,
) -> Result<(), RequestError> {
    let topics: BTreeSet<Topic> =
        parse_topics(client, id.as_ref(), topics).await?.into_keys().collect();
    let removed = if topics.is_empty() {
        BTreeMap::new()
    } else {
        let connection_id = &client.recipient.id;
        let shard = client.app.shard_of(connection_id).await?;
        client.app.tables.connections.leave(shard, connection_id, &topics).await?
    };
    let topics = removed.into_keys().collect();
    Ok(client.reply(&Reply::Unsubscribed { id, topics }).await?)
}

async fn resend(
    client: &Client<'_>,
    topic: String,
    from: u64,
    to: u64,
) -> Result<(), RequestError> {
    if to - from >= MAX_REPLAY {
        let message = format!("a replay is limited to {MAX_REPLAY} events");
        return Err(RequestError::rejected(ErrorCode::BadRequest, message, Some(topic)));
    }
    let parsed = match Topic::parse(&topic) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = error.to_string();
            return Err(RequestError::rejected(ErrorCode::UnknownTopic, message, Some(topic)));
        }
    };
    let connection = client.connection().await?;
    let right = Right::History(&parsed);
    client.permit(&connection.principal, right, &topic).await?;
    let limits = client.limits(&connection.principal).await?;
    // Events that the topic does not have yet are not missing.
    let newest = client.app.tables.log.newest(&parsed).await?;
    let head = newest.map_or(0, |newest| newest.entry.last());
    let (range, oldest) = (from..=to.min(head), limits.oldest(head));
    let expected = (range.end() + 1).saturating_sub(from) * EVENT_BYTES;
    let grant = client.begin_history(&connection.principal, expected).await?;
    replay(client, &connection.principal, right, range, oldest, Vec::new(), grant.as_ref()).await
}
