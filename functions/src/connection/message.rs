//! Messages: each is one request of the client.

use std::collections::BTreeSet;

use domain::{
    access::Right,
    chain::Chain,
    connection::LIFETIME,
    protocol::{Action, ErrorCode, ErrorReply, Reply, Request},
    topic::Topic,
};
use tracing::debug;

use super::{
    authenticate::authenticate,
    client::Client,
    error::RequestError,
    replay::replay,
    subscribe::{parse_topics, subscribe},
};

/// Largest number of events in one `replay`.
const MAX_REPLAY: u64 = 10_000;

/// How long an item outlives its connection.
const ITEM_MARGIN: std::time::Duration = std::time::Duration::from_mins(10);

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
    let rules = client.app.rules.current().await?;
    let rate = rules.limits_of(&client.caller.principal).messages_per_second;
    let name = format!("connection/{}", client.recipient.id);
    client.app.rates.admit(&name, rate, client.now).await.map_err(|_| {
        let message = format!("the limit is {rate} messages per second; wait a second");
        RequestError::rejected(ErrorCode::RateLimited, message, None)
    })
}

async fn act(client: &Client<'_>, request: Request) -> Result<(), RequestError> {
    let id = request.id;
    match request.action {
        Action::Hello => welcome(client, id).await,
        Action::Ping => Ok(client.reply(&Reply::Pong { id, at: client.now }).await?),
        Action::List => {
            let topics = client.connection().await?.topics.into_keys().collect();
            Ok(client.reply(&Reply::Subscriptions { id, topics }).await?)
        }
        Action::Subscribe { topics, since, last } => {
            subscribe(client, id, topics, &since, last).await
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

async fn unsubscribe(
    client: &Client<'_>,
    id: Option<String>,
    topics: Vec<String>,
) -> Result<(), RequestError> {
    let topics: BTreeSet<Topic> =
        parse_topics(client, id.as_ref(), topics).await?.into_keys().collect();
    let removed = if topics.is_empty() {
        BTreeSet::new()
    } else {
        let connection_id = &client.recipient.id;
        let shard = client.app.shard_of(connection_id).await?;
        client.app.tables.connections.leave(shard, connection_id, &topics).await?
    };
    let topics = removed.into_iter().collect();
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
    replay(client, &connection.principal, right, from..=to.min(head), limits.oldest(head)).await
}
