//! `authorize`: who somebody is, for the WebSocket API and for the HTTP API.

use aws_lambda_events::apigw::{
    ApiGatewayCustomAuthorizerRequestTypeRequest, ApiGatewayV2CustomAuthorizerV2Request,
};
use domain::access::Principal;
use jiff::Timestamp;
use lambda_http::http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{info, instrument};

use aws::error::Chain;

use crate::{app::App, token::Jwt};

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

/// Why a handshake is refused. API Gateway answers 401 to this very text.
#[derive(Debug, thiserror::Error)]
#[error("Unauthorized")]
pub struct Unauthorized;

/// Names the principal and the class of whoever makes a request.
///
/// Without a token that is `anonymous`.
///
/// # Errors
///
/// [`Unauthorized`] when a token is not valid.
#[instrument(name = "authorize", skip_all)]
pub async fn handle(
    app: &App,
    now: Timestamp,
    event: AuthorizeEvent,
) -> Result<Value, Unauthorized> {
    match event {
        AuthorizeEvent::WebSocket(event) => {
            let token = protocol_token(&event.headers)
                .or_else(|| bearer(&event.headers))
                .or_else(|| event.query_string_parameters.first("token").map(str::to_owned));
            let principal = identify(&app.jwt, token, now)?;
            Ok(json!({
                "principalId": principal.id,
                "policyDocument": {
                    "Version": "2012-10-17",
                    "Statement": [{
                        "Action": ["execute-api:Invoke"],
                        "Effect": "Allow",
                        "Resource": [event.method_arn],
                    }],
                },
                "context": { "class": principal.class },
            }))
        }
        AuthorizeEvent::Http(event) => {
            match identify(&app.jwt, bearer(&event.event.headers), now) {
                Ok(principal) => Ok(json!({
                    "isAuthorized": true,
                    "context": { "principalId": principal.id, "class": principal.class },
                })),
                Err(Unauthorized) => Ok(json!({ "isAuthorized": false })),
            }
        }
    }
}

fn identify(jwt: &Jwt, token: Option<String>, now: Timestamp) -> Result<Principal, Unauthorized> {
    let Some(token) = token else { return Ok(Principal::anonymous()) };
    jwt.check(&token, now).map_err(|error| {
        info!(error = %Chain(&error), "token refused");
        Unauthorized
    })
}

fn protocol_token(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(SEC_WEBSOCKET_PROTOCOL).into_iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|name| name.trim().strip_prefix(BEARER_PROTOCOL).map(str::to_owned))
}

fn bearer(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim().to_owned())
}
