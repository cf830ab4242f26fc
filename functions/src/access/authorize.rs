//! The function `authorize`: identifies the caller for the WebSocket API and for the HTTP API.

use aws_lambda_events::apigw::{
    ApiGatewayCustomAuthorizerRequestTypeRequest, ApiGatewayV2CustomAuthorizerV2Request,
};
use domain::{
    access::{ANONYMOUS, Principal, Right},
    chain::Chain,
};
use jiff::Timestamp;
use lambda_http::http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{error, info, instrument};

use crate::{
    access::caller::{PRINCIPAL, fields_of},
    access::identity::{Identity, TokenError},
    app::App,
};

/// Prefix of a token in the list of subprotocols that a client offers.
const BEARER_PROTOCOL: &str = "bearer.";

/// An event of either API.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
pub enum AuthorizeEvent {
    /// A request to the HTTP API, payload format 2.0.
    Http(Box<HttpEvent>),
    /// A handshake of the WebSocket API.
    WebSocket(Box<ApiGatewayCustomAuthorizerRequestTypeRequest>),
}

/// An event of an HTTP API. Only this kind of event has a `routeArn`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpEvent {
    /// The field that distinguishes the event.
    #[serde(rename = "routeArn")]
    pub arn: String,
    /// The event itself.
    #[serde(flatten)]
    pub event: ApiGatewayV2CustomAuthorizerV2Request,
}

/// Why a request is not authorized.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// The token is not valid. For exactly this text, API Gateway responds with 401.
    #[error("Unauthorized")]
    Unauthorized,
    /// The issuer's keys or the rules could not be loaded. API Gateway responds with 500.
    #[error("could not determine whether the caller has permission to connect")]
    Unavailable,
}

/// Identifies the principal and the class of a caller, and checks that it has permission to connect.
///
/// A caller without a token is `anonymous`. An invalid token is rejected; it is never treated as
/// anonymous.
///
/// # Errors
///
/// [`AuthorizeError`] when the caller cannot be identified.
#[instrument(name = "authorize", skip_all)]
pub async fn handle(
    app: &App,
    now: Timestamp,
    event: AuthorizeEvent,
) -> Result<Value, AuthorizeError> {
    match event {
        AuthorizeEvent::WebSocket(event) => {
            let query = event.query_string_parameters.first("token").map(str::to_owned);
            let token = match protocol_token(&event.headers)? {
                Some(token) => Some(token),
                None => bearer(&event.headers)?.or(query),
            };
            let identity = identify(app, token, now).await?;
            let is_permitted = can_connect(app, identity.as_ref()).await?;
            Ok(json!({
                "principalId": name_of(identity.as_ref()),
                "policyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [{
                        "Action": ["execute-api:Invoke"],
                        "Effect": if is_permitted { "Allow" } else { "Deny" },
                        "Resource": [event.method_arn],
                    }],
                },
                "context": fields_of(identity.as_ref()),
            }))
        }
        AuthorizeEvent::Http(event) => {
            let identity = match bearer(&event.event.headers) {
                Ok(token) => identify(app, token, now).await,
                Err(error) => Err(error),
            };
            let identity = match identity {
                Ok(identity) => identity,
                Err(AuthorizeError::Unauthorized) => return Ok(json!({ "isAuthorized": false })),
                Err(error @ AuthorizeError::Unavailable) => return Err(error),
            };
            // The page and the health check are public.
            let path = event.event.raw_path.as_deref().unwrap_or_default();
            let is_permitted =
                !path.contains("/api/") || can_connect(app, identity.as_ref()).await?;
            let mut fields = fields_of(identity.as_ref());
            fields.insert(PRINCIPAL, name_of(identity.as_ref()).to_owned());
            Ok(json!({ "isAuthorized": is_permitted, "context": fields }))
        }
    }
}

fn name_of(identity: Option<&Identity>) -> &str {
    identity.map_or(ANONYMOUS, |identity| &identity.principal.id)
}

async fn identify(
    app: &App,
    token: Option<String>,
    now: Timestamp,
) -> Result<Option<Identity>, AuthorizeError> {
    let Some(token) = token else { return Ok(None) };
    match app.identities.check(&token, now).await {
        Ok(identity) => Ok(Some(identity)),
        Err(error @ TokenError::IssuerUnavailable(_)) => {
            error!(error = %Chain(&error), "could not check a token");
            Err(AuthorizeError::Unavailable)
        }
        Err(error) => {
            info!(error = %Chain(&error), "rejected a token");
            Err(AuthorizeError::Unauthorized)
        }
    }
}

async fn can_connect(app: &App, identity: Option<&Identity>) -> Result<bool, AuthorizeError> {
    let rules = app.rules.current().await.map_err(|error| {
        error!(error = %Chain(&error), "could not load the rules");
        AuthorizeError::Unavailable
    })?;
    let anonymous = Principal::anonymous();
    let principal = identity.map_or(&anonymous, |identity| &identity.principal);
    Ok(rules.allows(principal, Right::Connect))
}

/// Returns the token in the list of subprotocols. A list that cannot be read may contain a token, and is
/// rejected.
fn protocol_token(headers: &HeaderMap) -> Result<Option<String>, AuthorizeError> {
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| AuthorizeError::Unauthorized)?;
        for name in value.split(',').map(str::trim) {
            if let Some((prefix, token)) = name.split_at_checked(BEARER_PROTOCOL.len())
                && prefix.eq_ignore_ascii_case(BEARER_PROTOCOL)
            {
                return Ok(Some(token.to_owned()));
            }
        }
    }
    Ok(None)
}

/// Returns the token in the header. A header without a bearer token is rejected.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, AuthorizeError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| AuthorizeError::Unauthorized)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(token.trim().to_owned()))
        }
        _ => {
            info!("rejected an Authorization header without a bearer token");
            Err(AuthorizeError::Unauthorized)
        }
    }
}
