//! The events of the WebSocket API and the responses to them.

use aws::error::StoreError;
use aws_lambda_events::apigw::{ApiGatewayProxyResponse, ApiGatewayWebsocketProxyRequestContext};
use domain::connection::{ConnectionId, Recipient};
use lambda_http::http::HeaderMap;

use crate::{
    access::{caller::Caller, rules::RulesError},
    app::App,
};

/// Why an event could not be handled. The gateway reports an error to the client.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionEventError {
    /// It is not an event of a WebSocket API.
    #[error("event has no {0}")]
    Missing(&'static str),
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The rules are not known.
    #[error(transparent)]
    Rules(#[from] RulesError),
}

/// Returns the caller, as `authorize` identified it at `$connect`. The gateway repeats it in every event.
pub(super) fn caller(context: &ApiGatewayWebsocketProxyRequestContext) -> Caller {
    Caller::read(&context.authorizer.fields, context.identity.source_ip.as_deref())
}

/// Returns where messages for the connection of an event are posted.
pub(super) fn recipient(
    app: &App,
    id: ConnectionId,
    context: &ApiGatewayWebsocketProxyRequestContext,
) -> Result<Recipient, ConnectionEventError> {
    let missing = |name| move || ConnectionEventError::Missing(name);
    let domain = context.domain_name.as_deref().ok_or_else(missing("domainName"))?;
    let api = context.apiid.as_deref().ok_or_else(missing("apiId"))?;
    let stage = context.stage.as_deref().ok_or_else(missing("stage"))?;
    Ok(Recipient { endpoint: app.callback_url.fill(domain, api, stage), id })
}

/// Returns a response without a body.
pub(super) fn response(status: i64) -> ApiGatewayProxyResponse {
    let mut response = ApiGatewayProxyResponse::default();
    response.status_code = status;
    response.headers = HeaderMap::new();
    response
}
