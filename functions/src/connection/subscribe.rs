//! `subscribe`: records the subscriptions, sends what they start with, and hands over to `push`.

use std::collections::BTreeMap;

use aws::connections::ConnectionError;
use domain::{
    access::Right,
    connection::Connection,
    protocol::{ErrorCode, ErrorReply, GapReason, Reply},
    topic::Topic,
};

use super::{
    client::Client,
    error::RequestError,
    replay::{gap, replay},
};
use crate::{
    access::history::Grant,
    subscription::{Joined, Position, Start, SubscribeError},
};

/// Largest number of rounds of catching up before `push` takes over. Each round is shorter than the
/// one before.
const MAX_ROUNDS: usize = 5;

/// How far behind the head, in events, a connection can be when `push` takes over.
const CLOSE_ENOUGH: u64 = 100;

/// Subscribes the connection to topics. Each topic that cannot be subscribed is reported by an error of
/// its own, and the others are subscribed.
pub(super) async fn subscribe(
    client: &Client<'_>,
    id: Option<String>,
    topics: Vec<String>,
    since: &BTreeMap<String, u64>,
    log: Option<&str>,
    last: Option<u64>,
) -> Result<(), RequestError> {
    let connection = client.connection().await?;
    let our_log = client.app.log_id.get().await?;
    let mut starts = BTreeMap::new();
    let mut suggests = true;
    for (topic, spelling) in parse_topics(client, id.as_ref(), topics).await? {
        let after = since.get(&spelling).or_else(|| since.get(topic.as_str()));
        let start = match (after, last) {
            (Some(seq), _) => Start::after(*seq, log, our_log),
            (None, Some(count)) if count > 0 => Start::Last(count),
            (None, _) => Start::Newest,
        };
        match check(client, &connection, &topic, &spelling, start, &mut suggests).await {
            Ok(()) => {
                starts.insert(topic, start);
            }
            Err(RequestError::Rejected(reply)) => {
                let reply = ErrorReply { id: id.clone(), ..reply };
                client.reply(&Reply::Error(reply)).await?;
            }
            Err(error) => return Err(error),
        }
    }
    let mut positions = client.app.locate(&connection.principal, &starts, client.now).await?;
    let expected = positions.iter().map(|position| position.bytes).sum();
    let grant = client.begin_history(&connection.principal, expected).await?;
    // Topics over the limit are rejected one by one, so that the others are subscribed.
    while !positions.is_empty() {
        match client.app.join(&connection, &mut positions, client.now).await {
            Ok(joined) => {
                return send_start(client, &connection, id, joined, positions, grant.as_ref())
                    .await;
            }
            Err(SubscribeError::Connection(ConnectionError::TooManyTopics { has, limit })) => {
                let Some(Position { topic, .. }) = positions.pop() else { break };
                let message = format!("the connection has {has} topics; the limit is {limit}");
                let code = ErrorCode::TooManyTopics;
                client.reply_error(id.as_ref(), code, message, topic.as_str()).await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Parses topics and keeps the client's spelling of each. Malformed ones are reported to the client.
pub(super) async fn parse_topics(
    client: &Client<'_>,
    id: Option<&String>,
    topics: Vec<String>,
) -> Result<BTreeMap<Topic, String>, RequestError> {
    let mut parsed = BTreeMap::new();
    for text in topics {
        match Topic::parse(&text) {
            Ok(topic) => {
                parsed.insert(topic, text);
            }
            Err(error) => {
                let code = ErrorCode::UnknownTopic;
                client.reply_error(id, code, error.to_string(), &text).await?;
            }
        }
    }
    Ok(parsed)
}

/// Checks the permissions for a topic, and that its pair exists. Only the first pair of a message that does not
/// exist gets suggestions, because they are expensive.
async fn check(
    client: &Client<'_>,
    connection: &Connection,
    topic: &Topic,
    spelling: &str,
    start: Start,
    suggests: &mut bool,
) -> Result<(), RequestError> {
    let principal = &connection.principal;
    client.permit(principal, Right::Subscribe(topic), spelling).await?;
    if start.is_history() {
        client.permit(principal, Right::History(topic), spelling).await?;
    }
    let Some(unknown) = client.app.catalog.unknown_pair(topic, client.now).await? else {
        return Ok(());
    };
    let pair = &unknown.pair;
    let nearest =
        if std::mem::take(suggests) { unknown.nearest().join(", ") } else { String::new() };
    let message = match nearest {
        nearest if nearest.is_empty() => format!("Coinbase has no pair {pair}"),
        nearest => format!("Coinbase has no pair {pair}; did you mean {nearest}?"),
    };
    Err(RequestError::rejected(ErrorCode::UnknownTopic, message, Some(spelling.to_owned())))
}

/// Confirms the subscriptions, sends the events that they start with, and hands over to `push`, which
/// continues where the sending stopped. The connection is subscribed even if it could not be sent the
/// confirmation, so `push` takes over then too.
async fn send_start(
    client: &Client<'_>,
    connection: &Connection,
    id: Option<String>,
    joined: Joined,
    mut positions: Vec<Position>,
    grant: Option<&Grant<'_>>,
) -> Result<(), RequestError> {
    let Joined { log, topics, joined_at, .. } = joined;
    let joining = positions.iter().map(|position| position.topic.clone()).collect();
    let completing = async {
        let confirmed = client.reply(&Reply::Subscribed { id, log, topics }).await;
        let sent = match confirmed {
            Ok(()) => catch_up(client, connection, &mut positions, grant).await,
            Err(error) => Err(error.into()),
        };
        client.app.go_live(connection, &positions).await?;
        sent
    };
    client.app.while_joining(connection, &joining, joined_at, completing).await
}

async fn catch_up(
    client: &Client<'_>,
    connection: &Connection,
    positions: &mut [Position],
    grant: Option<&Grant<'_>>,
) -> Result<(), RequestError> {
    for position in positions {
        if let Some((from, to)) = position.reset {
            client.send(gap(&position.topic, from, to, GapReason::Reset)).await?;
        }
        for _ in 0..MAX_ROUNDS {
            if position.next > position.head {
                break;
            }
            let right = if position.with_history {
                Right::History(&position.topic)
            } else {
                Right::Subscribe(&position.topic)
            };
            let range = position.next..=position.head;
            let entries = std::mem::take(&mut position.entries);
            let principal = &connection.principal;
            replay(client, principal, right, range, position.oldest, entries, grant).await?;
            position.next = position.head + 1;
            let newest = client.app.tables.log.newest(&position.topic).await?;
            let head = newest.map_or(position.head, |newest| newest.entry.last());
            if head < position.head + CLOSE_ENOUGH {
                break;
            }
            position.head = head;
        }
    }
    Ok(())
}
