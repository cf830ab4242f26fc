//! The function `authorize`: identifies the caller for the WebSocket API and for the HTTP API.

use aws_lambda_events::apigw::{
    ApiGatewayCustomAuthorizerRequestTypeRequest, ApiGatewayV2CustomAuthorizerV2Request,
};
use domain::{
    access::{ANONYMOUS, Principal, Right},
    chain::Chain,
};
use futures_util::future::BoxFuture;
use jiff::Timestamp;
use lambda_http::http::{
    HeaderMap,
    header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::{error, info, instrument};

use crate::{
    access::caller::{PRINCIPAL, address, fields_of},
    access::headers::all_headers,
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
// The future is boxed here so that this code is compiled once, and not again in each program that runs it.
pub fn handle(
    app: &App,
    now: Timestamp,
    event: AuthorizeEvent,
) -> BoxFuture<'_, Result<Value, AuthorizeError>> {
    Box::pin(handle_event(app, now, event))
}

#[instrument(name = "authorize", skip_all)]
async fn handle_event(
    app: &App,
    now: Timestamp,
    event: AuthorizeEvent,
) -> Result<Value, AuthorizeError> {
    match event {
        AuthorizeEvent::WebSocket(event) => {
            let source_ip =
                event.request_context.identity.as_ref().and_then(|it| it.source_ip.as_deref());
            let identity = identify(app, token_of(&event)?, source_ip, now).await?;
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
                Ok(token) => {
                    let source_ip = event.event.request_context.http.source_ip.as_deref();
                    identify(app, token, source_ip, now).await
                }
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
    source_ip: Option<&str>,
    now: Timestamp,
) -> Result<Option<Identity>, AuthorizeError> {
    let Some(token) = token else { return Ok(None) };
    match app.identities.check(&token, &address(source_ip), now).await {
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

/// Returns the token of a handshake: in the header, among the subprotocols, or in the query. Two different
/// tokens are rejected, wherever they are: one of them would be ignored.
fn token_of(
    event: &ApiGatewayCustomAuthorizerRequestTypeRequest,
) -> Result<Option<String>, AuthorizeError> {
    let headers = all_headers(&event.headers, &event.multi_value_headers);
    let mut tokens = protocol_tokens(headers)?;
    tokens.extend(bearer(headers)?);
    for query in [&event.query_string_parameters, &event.multi_value_query_string_parameters] {
        tokens.extend(query.all("token").into_iter().flatten().map(str::to_owned));
    }
    tokens.sort();
    tokens.dedup();
    if tokens.len() > 1 {
        info!("rejected a handshake with more than one token");
        return Err(AuthorizeError::Unauthorized);
    }
    Ok(tokens.pop())
}

/// Returns the tokens in the list of subprotocols. A list that cannot be read may contain a token, and is
/// rejected.
fn protocol_tokens(headers: &HeaderMap) -> Result<Vec<String>, AuthorizeError> {
    let mut tokens = Vec::new();
    for value in headers.get_all(SEC_WEBSOCKET_PROTOCOL) {
        let value = value.to_str().map_err(|_| AuthorizeError::Unauthorized)?;
        for name in value.split(',').map(str::trim) {
            if let Some((prefix, token)) = name.split_at_checked(BEARER_PROTOCOL.len())
                && prefix.eq_ignore_ascii_case(BEARER_PROTOCOL)
            {
                tokens.push(token.to_owned());
            }
        }
    }
    Ok(tokens)
}

/// Returns the token in the header. A header without a bearer token is rejected, and so is a second header.
fn bearer(headers: &HeaderMap) -> Result<Option<String>, AuthorizeError> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        info!("rejected two Authorization headers");
        return Err(AuthorizeError::Unauthorized);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handshake_has_one_token_at_most() {
        let protocols = |values: &[&str]| json!({"Sec-WebSocket-Protocol": values});
        let cases = [
            ("none", json!({}), json!({}), Ok(None)),
            ("a header", json!({"Authorization": ["Bearer a"]}), json!({}), Ok(Some("a"))),
            ("a query", json!({}), json!({"token": ["a"]}), Ok(Some("a"))),
            ("a subprotocol", protocols(&["headwater.v1, bearer.a"]), json!({}), Ok(Some("a"))),
            ("a second line", protocols(&["headwater.v1", "bearer.a"]), json!({}), Ok(Some("a"))),
            (
                "the same one twice",
                protocols(&["bearer.a"]),
                json!({"token": ["a"]}),
                Ok(Some("a")),
            ),
            ("two headers", json!({"Authorization": ["Bearer a", "Bearer a"]}), json!({}), Err(())),
            ("not a bearer", json!({"Authorization": ["Basic a"]}), json!({}), Err(())),
            ("two subprotocols", protocols(&["bearer.a, bearer.b"]), json!({}), Err(())),
            ("two lines", protocols(&["bearer.a", "bearer.b"]), json!({}), Err(())),
            ("two queries", json!({}), json!({"token": ["a", "b"]}), Err(())),
            (
                "a good subprotocol and a bad header",
                json!({"Sec-WebSocket-Protocol": ["bearer.a"], "Authorization": ["Bearer b"]}),
                json!({}),
                Err(()),
            ),
        ];
        for (name, headers, query, expected) in cases {
            // Only the last value of each.
            let last = |lists: &Value| -> Value {
                let lists = lists.as_object().expect("an object").iter();
                lists
                    .filter_map(|(key, values)| {
                        Some((key.clone(), values.as_array()?.last()?.clone()))
                    })
                    .collect()
            };
            let event = json!({
                "type": "REQUEST", "methodArn": "arn", "requestContext": {},
                "headers": last(&headers), "multiValueHeaders": headers,
                "queryStringParameters": last(&query), "multiValueQueryStringParameters": query,
            });
            let event = serde_json::from_value(event).expect("an event");
            let token = token_of(&event).map_err(drop);
            assert_eq!(
                token.as_ref().map(Option::as_deref),
                expected.as_ref().map(|it| *it),
                "case: {name}"
            );
        }
    }
}
