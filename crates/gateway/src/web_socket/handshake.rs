//! The WebSocket handshake, held until the authorizer and `$connect` have responded.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Method, StatusCode, header};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    authorizer::{self, Denied},
    clock,
    functions::FunctionError,
    http_server::request::HttpRequest,
    http_server::response::{self, HttpResponse},
    ids,
    invocation::{InvocationError, invoke},
    sockets::socket::{Client, End},
    state::GatewayState,
    web_socket::connection,
    web_socket::events::EventBuilder,
    web_socket::response::ProxyResponse,
};

/// A client whose handshake may be answered with 101.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) client: Client,
    /// The subprotocol that `$connect` chose.
    pub(crate) subprotocol: Option<HeaderValue>,
}

/// Whether a request asks for a WebSocket.
pub(crate) fn is_upgrade(request: &HttpRequest) -> bool {
    request.header_has(header::UPGRADE, "websocket")
}

/// Handles a handshake up to the response. The status of an error is that of API Gateway.
pub(crate) async fn accept(
    state: Arc<GatewayState>,
    request: HttpRequest,
) -> Result<(Accepted, HttpResponse), StatusCode> {
    let key = check(&state, &request)?;
    // When many clients connect at once they wait here, where that is cheap, and not in the functions.
    let turn = state.handshakes.clone().acquire_owned().await;
    let turn = turn.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let (answer, answered) = oneshot::channel();
    // Runs to its end even if the client leaves: `$connect` may have stored the connection by then.
    state.tasks.clone().spawn(async move {
        let decided = decide(&state, &request).await;
        drop(turn);
        if let Err(Ok(abandoned)) = answer.send(decided) {
            connection::disconnect(&state, &abandoned.client, &End::LOST).await;
        }
    });
    let accepted = answered.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)??;
    let response = response::switching_protocols(&key, accepted.subprotocol.clone());
    Ok((accepted, response))
}

/// Checks a handshake before any function is invoked, and returns the key of the response.
fn check(state: &GatewayState, request: &HttpRequest) -> Result<String, StatusCode> {
    let limits = state.sockets.limits();
    if request.path.len() + 1 + request.query.len() > limits.url_bytes {
        return Err(StatusCode::URI_TOO_LONG);
    }
    let is_version_13 = request.header(header::SEC_WEBSOCKET_VERSION) == Some("13");
    if !is_upgrade(request)
        || !request.header_has(header::CONNECTION, "upgrade")
        || request.method != Method::GET
        || !is_version_13
    {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let key = request.header(header::SEC_WEBSOCKET_KEY);
    let key = key.ok_or(StatusCode::BAD_REQUEST)?;
    if !state.sockets.admits_connect() {
        return Err(StatusCode::TOO_MANY_REQUESTS);
    }
    Ok(derive_accept_key(key.as_bytes()))
}

async fn decide(state: &GatewayState, request: &HttpRequest) -> Result<Accepted, StatusCode> {
    let mut client = Client {
        id: ids::connection(request.received_at).into(),
        connected_at: request.received_at,
        source_ip: request.source_ip,
        user_agent: request.header(header::USER_AGENT).map(Into::into),
        domain_name: request.host.as_str().into(),
        authorizer: None,
    };
    let request_id = ids::request(request.received_at);
    client.authorizer =
        authorize(state, request, &client, &request_id).await.map_err(Denied::status)?;
    let subprotocol = connect(state, request, &client, &request_id).await?;
    Ok(Accepted { client, subprotocol })
}

async fn authorize(
    state: &GatewayState,
    request: &HttpRequest,
    client: &Client,
    request_id: &str,
) -> Result<Option<Box<RawValue>>, Denied> {
    let Some(authorizer) = &state.config.authorizer else { return Ok(None) };
    authorizer::identity(&authorizer.identity_sources, request).ok_or(Denied::Unauthorized)?;
    let api = &state.config.api;
    let builder = EventBuilder { api, client, request_id, at: clock::now() };
    let event = builder.authorize(request);
    let started = Instant::now();
    let limit = state.sockets.limits().authorizer;
    let answer = invoke(&*state.functions, &authorizer.function, event, limit).await?;
    let permit = authorizer::judge(&answer, &api.connect_arn())?;
    Ok(Some(permit.to_block(started.elapsed())))
}

/// Invokes `$connect`, and returns the subprotocol that it chose.
async fn connect(
    state: &GatewayState,
    request: &HttpRequest,
    client: &Client,
    request_id: &str,
) -> Result<Option<HeaderValue>, StatusCode> {
    let Some(route) = state.config.routes.connect() else { return Ok(None) };
    let api = &state.config.api;
    let builder = EventBuilder { api, client, request_id, at: clock::now() };
    let event = builder.connect(request);
    let limit = state.sockets.limits().integration;
    let answer = invoke(&*state.functions, &route.function, event, limit).await;
    let answer = answer.map_err(|error| status_of(&error))?;
    let malformed = StatusCode::BAD_GATEWAY;
    let answer = ProxyResponse::parse(&answer).ok_or(malformed)?;
    let status = answer.status().ok_or(malformed)?;
    if !status.is_success() {
        return Err(status);
    }
    let subprotocol = answer.header("Sec-WebSocket-Protocol");
    subprotocol.map(|name| HeaderValue::try_from(name).map_err(|_| malformed)).transpose()
}

fn status_of(error: &InvocationError) -> StatusCode {
    match error {
        InvocationError::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        InvocationError::Function(FunctionError::Handled { .. } | FunctionError::Timeout) => {
            StatusCode::BAD_GATEWAY
        }
        InvocationError::Function(FunctionError::Unavailable(_)) => {
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}
