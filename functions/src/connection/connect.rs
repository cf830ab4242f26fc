//! `$connect`: the handshake.

use aws::connections::ConnectionError;
use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest};
use domain::{
    access::Right,
    connection::{Connection, ConnectionId},
    protocol::SUBPROTOCOL,
};
use jiff::Timestamp;
use lambda_http::http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_PROTOCOL};
use tracing::info;

use super::event::{ConnectionEventError, caller, recipient, response};
use crate::{access::headers::all_headers, app::App};

/// Handles a handshake: checks the subprotocol, the origin, the rules and the connection limit, and
/// records the connection.
pub(super) async fn connect(
    app: &App,
    now: Timestamp,
    id: ConnectionId,
    event: &ApiGatewayWebsocketProxyRequest,
) -> Result<ApiGatewayProxyResponse, ConnectionEventError> {
    let headers = all_headers(&event.headers, &event.multi_value_headers);
    let offered = offered_protocols(headers);
    let is_ours = offered.iter().any(|name| name.eq_ignore_ascii_case(SUBPROTOCOL));
    if !offered.is_empty() && !is_ours {
        return Ok(response(400));
    }
    if !app.origins.admit(headers) {
        info!("rejected a connection: its origin is not allowed");
        return Ok(response(403));
    }
    let caller = caller(&event.request_context);
    let rules = app.rules.current().await?;
    // The authorizer has checked this already, but the rules can have changed since.
    if !rules.allows(&caller.principal, Right::Connect) {
        return Ok(response(403));
    }
    app.note_shards(now).await?;
    let shard = app.shards.of_new(&id);
    let recipient = recipient(app, id, &event.request_context)?;
    let limit = rules.limits_of(&caller.principal).connections;
    let counted_as = limit.map(|_| caller.counted_as);
    if let (Some(name), Some(limit)) = (&counted_as, limit)
        && !app.tables.quotas.open(name, &recipient.id, limit, &app.shards, now).await?
    {
        info!(class = caller.principal.class, "rejected a connection: connection limit reached");
        return Ok(response(429));
    }
    let connection = Connection {
        token_expires_at: caller.token_expires_at,
        counted_as,
        ..Connection::open(recipient, shard, caller.principal, now)
    };
    if let Err(error) = app.tables.connections.open(&connection).await {
        if let Some(name) = &connection.counted_as {
            app.tables.quotas.close(name, &connection.recipient.id, now).await?;
        }
        return match error {
            ConnectionError::Store(error) => Err(error.into()),
            // `$disconnect` arrived first: the gateway has already dropped the connection.
            ConnectionError::NotOpen(_) | ConnectionError::TooManyTopics { .. } => {
                Ok(response(410))
            }
        };
    }
    info!(class = connection.principal.class, "connection opened");
    let mut response = response(200);
    if is_ours {
        response.headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    Ok(response)
}

fn offered_protocols(headers: &HeaderMap) -> Vec<&str> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect()
}
