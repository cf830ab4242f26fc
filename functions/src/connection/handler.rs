//! The handler of the WebSocket API's events: `$connect`, messages, `$disconnect`.

use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequest};
use domain::connection::ConnectionId;
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use tracing::{debug, instrument};

use super::{
    client::Client,
    connect::connect,
    event::{ConnectionEventError, caller, recipient, response},
    message,
};
use crate::app::App;

/// Handles one event of the WebSocket API.
///
/// # Errors
///
/// [`ConnectionEventError`]; on `$connect` the handshake then fails with 502.
// The future is boxed here so that this code is compiled once, and not again in each program that runs it.
pub fn handle(
    app: &App,
    now: Timestamp,
    event: ApiGatewayWebsocketProxyRequest,
) -> BoxFuture<'_, Result<ApiGatewayProxyResponse, ConnectionEventError>> {
    Box::pin(handle_event(app, now, event))
}

#[instrument(name = "connection", skip_all, fields(connection.id))]
async fn handle_event(
    app: &App,
    now: Timestamp,
    event: ApiGatewayWebsocketProxyRequest,
) -> Result<ApiGatewayProxyResponse, ConnectionEventError> {
    let context = &event.request_context;
    let Some(id) = context.connection_id.as_deref().map(ConnectionId::new) else {
        return Err(ConnectionEventError::Missing("connectionId"));
    };
    tracing::Span::current().record("connection.id", id.as_str());
    match context.event_type.as_deref() {
        Some("CONNECT") => connect(app, now, id, &event).await,
        Some("DISCONNECT") => {
            let shard = app.shard_of(&id).await?;
            app.tables.connections.close(shard, &id).await?;
            debug!(code = context.disconnect_status_code, "connection closed");
            Ok(response(200))
        }
        Some("MESSAGE") => {
            let client = Client {
                app,
                now,
                recipient: recipient(app, id, context)?,
                caller: caller(context),
                connected_at: Timestamp::from_millisecond(context.connected_at).unwrap_or(now),
            };
            message::handle(&client, event.body.as_deref().unwrap_or_default()).await;
            Ok(response(200))
        }
        _ => Err(ConnectionEventError::Missing("eventType")),
    }
}
