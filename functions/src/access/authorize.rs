//! `authorize`: who somebody is, for the WebSocket API and for the HTTP API.

use aws_lambda_events::apigw::{
    ApiGatewayCustomAuthorizerRequestTypeRequest, ApiGatewayV2CustomAuthorizerV2Request,
};
use domain::access::{ANONYMOUS, Principal, Right};
use jiff::Timestamp;
use lambda_http::http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{error, info, instrument};

use aws::error::Chain;

use crate::{
    access::caller::{PRINCIPAL, said_of},
    access::identity::{Identity, TokenError},
    app::App,
};

/// What precedes a token among the subprotocols that a client offers.
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

/// An HTTP API's event, told from the other kind by its `routeArn`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpEvent {
    /// What the event is known by.
    #[serde(rename = "routeArn")]
    pub arn: String,
    /// The event itself.
    #[serde(flatten)]
    pub event: ApiGatewayV2CustomAuthorizerV2Request,
}

/// Why nobody is let in.
#[derive(Debug, thiserror::Error)]
pub enum AuthorizeError {
    /// A token is not good. API Gateway answers 401 to this very text.
    #[error("Unauthorized")]
    Unauthorized,
    /// The issuer's keys or the rules are not known. API Gateway answers 500.
    #[error("who may connect is not known")]
    Unavailable,
}

/// Names the principal and the class of whoever makes a request, and lets in who may connect.
///
/// Without a token that is `anonymous`; a token that is not good is never that.
///
/// # Errors
///
/// [`AuthorizeError`].
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
            let may = may_connect(app, identity.as_ref()).await?;
            Ok(json!({
                "principalId": name_of(identity.as_ref()),
                "policyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [{
                        "Action": ["execute-api:Invoke"],
                        "Effect": if may { "Allow" } else { "Deny" },
                        "Resource": [event.method_arn],
                    }],
                },
                "context": said_of(identity.as_ref()),
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
            // The page and the health check are for everybody.
            let path = event.event.raw_path.as_deref().unwrap_or_default();
            let may = !path.contains("/api/") || may_connect(app, identity.as_ref()).await?;
            let mut said = said_of(identity.as_ref());
            said.insert(PRINCIPAL, name_of(identity.as_ref()).to_owned());
            Ok(json!({ "isAuthorized": may, "context": said }))
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
        Err(error @ TokenError::IssuerAway(_)) => {
            error!(error = %Chain(&error), "token could not be checked");
            Err(AuthorizeError::Unavailable)
        }
        Err(error) => {
            info!(error = %Chain(&error), "token refused");
            Err(AuthorizeError::Unauthorized)
        }
    }
}

async fn may_connect(app: &App, identity: Option<&Identity>) -> Result<bool, AuthorizeError> {
    let rules = app.in_force().await.map_err(|error| {
        error!(error = %Chain(&error), "rules are not known");
        AuthorizeError::Unavailable
    })?;
    let anonymous = Principal::anonymous();
    let principal = identity.map_or(&anonymous, |identity| &identity.principal);
    Ok(rules.allows(principal, Right::Connect))
}

/// The token among the subprotocols; a list that cannot be read may have one, and is refused.
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

/// The token in the header; one that is there and has none is refused.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, AuthorizeError> {
    let Some(value) = headers.get(AUTHORIZATION) else { return Ok(None) };
    let value = value.to_str().map_err(|_| AuthorizeError::Unauthorized)?;
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
            Ok(Some(token.trim().to_owned()))
        }
        _ => {
            info!("authorization refused: it is no bearer token");
            Err(AuthorizeError::Unauthorized)
        }
    }
}
