//! The WebSocket handshake, held until the authorizer and `$connect` have responded.

use std::{sync::Arc, time::Instant};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::{HeaderValue, Method, StatusCode, Version, header};
use serde_json::value::RawValue;
use tokio::sync::oneshot;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    addresses::Address,
    authorizer::{self, AuthorizationError},
    clock,
    functions::FunctionError,
    http_server::request::HttpRequest,
    http_server::response::{self, HttpResponse},
    ids,
    invocation::{InvocationError, invoke},
    sockets::socket::{Client, CloseStatus},
    state::GatewayState,
    web_socket::connection,
    web_socket::events::EventBuilder,
    web_socket::response::ProxyResponse,
};

/// The length of a client's key before it is encoded.
const KEY_BYTES: usize = 16;

/// A client whose handshake is accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) client: Client,
    /// The subprotocol that `$connect` chose.
    pub(crate) subprotocol: Option<HeaderValue>,
}

/// Whether a request asks for an upgrade to WebSocket.
pub(crate) fn is_upgrade(request: &HttpRequest) -> bool {
    request.header_has(header::UPGRADE, "websocket")
}

/// Handles a handshake up to the response. An error is the status with which API Gateway rejects it.
pub(crate) async fn accept(
    state: Arc<GatewayState>,
    request: HttpRequest,
) -> Result<(Accepted, HttpResponse), StatusCode> {
    let key = check(&state, &request)?;
    // If many clients connect at once, they wait here, where waiting is cheap, and not in the functions.
    let address = state.addresses.of(request.source_ip);
    let share = address.handshake().await;
    let place = address.place().await;
    let (outcome, decided) = oneshot::channel();
    // The task runs to its end even if the client disconnects, because `$connect` may have stored the
    // connection by then.
    state.tasks.clone().spawn(async move {
        let deciding = async {
            let _permit = state.handshakes.acquire().await;
            decide(&state, &address, &request).await
        };
        let result = place.run(deciding).await;
        drop(share);
        if let Err(Ok(abandoned)) = outcome.send(result) {
            connection::disconnect(&state, &abandoned.client, &CloseStatus::ABNORMAL).await;
        }
    });
    let accepted = decided.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)??;
    let response = response::switching_protocols(&key, accepted.subprotocol.clone());
    Ok((accepted, response))
}

/// Checks a handshake before any function is invoked, and returns the key of the response.
fn check(state: &GatewayState, request: &HttpRequest) -> Result<String, StatusCode> {
    let limits = state.sockets.limits();
    if request.path.len() + 1 + request.query.len() > limits.url_bytes {
        return Err(StatusCode::URI_TOO_LONG);
    }
    // RFC 6455 section 4.1: HTTP/1.1 or higher.
    if request.version < Version::HTTP_11 {
        return Err(StatusCode::BAD_REQUEST);
    }
    let is_version_13 = request.header(header::SEC_WEBSOCKET_VERSION) == Some("13");
    if !is_upgrade(request)
        || !request.header_has(header::CONNECTION, "upgrade")
        || request.method != Method::GET
        || !is_version_13
    {
        return Err(StatusCode::UPGRADE_REQUIRED);
    }
    let key = request.header(header::SEC_WEBSOCKET_KEY).ok_or(StatusCode::BAD_REQUEST)?;
    // The same section: 16 bytes in base64.
    if STANDARD.decode(key).map_or(0, |bytes| bytes.len()) != KEY_BYTES {
        return Err(StatusCode::BAD_REQUEST);
    }
    if !state.sockets.admits_connect() {
        return Err(StatusCode::TOO_MANY_REQUESTS);
    }
    Ok(derive_accept_key(key.as_bytes()))
}

async fn decide(
    state: &GatewayState,
    address: &Address,
    request: &HttpRequest,
) -> Result<Accepted, StatusCode> {
    let mut client = Client {
        id: ids::connection(request.received_at).into(),
        connected_at: request.received_at,
        source_ip: request.source_ip,
        user_agent: request.header(header::USER_AGENT).map(Into::into),
        domain_name: request.host.as_str().into(),
        authorizer: None,
    };
    let request_id = ids::request(request.received_at);
    client.authorizer = authorize(state, address, request, &client, &request_id)
        .await
        .map_err(AuthorizationError::status)?;
    let subprotocol = connect(state, address, request, &client, &request_id).await?;
    Ok(Accepted { client, subprotocol })
}

async fn authorize(
    state: &GatewayState,
    address: &Address,
    request: &HttpRequest,
    client: &Client,
    request_id: &str,
) -> Result<Option<Box<RawValue>>, AuthorizationError> {
    let Some(authorizer) = &state.config.authorizer else { return Ok(None) };
    authorizer::identity(&authorizer.identity_sources, request)
        .ok_or(AuthorizationError::Unauthorized)?;
    let api = &state.config.api;
    let builder = EventBuilder { api, client, request_id, at: clock::now() };
    let event = builder.authorize(request);
    let started = Instant::now();
    let limit = state.sockets.limits().authorizer;
    let (functions, function) = (&*state.functions, &authorizer.function);
    let response = invoke(Some(address), functions, function, event, limit).await?;
    let context = authorizer::evaluate_web_socket(&response, &api.connect_arn())?;
    Ok(Some(context.to_web_socket_json(started.elapsed())))
}

/// Invokes `$connect`, and returns the subprotocol that it chose.
async fn connect(
    state: &GatewayState,
    address: &Address,
    request: &HttpRequest,
    client: &Client,
    request_id: &str,
) -> Result<Option<HeaderValue>, StatusCode> {
    let Some(route) = state.config.routes.connect() else { return Ok(None) };
    let api = &state.config.api;
    let builder = EventBuilder { api, client, request_id, at: clock::now() };
    let event = builder.connect(request);
    let limit = state.sockets.limits().integration;
    let response = invoke(Some(address), &*state.functions, &route.function, event, limit)
        .await
        .map_err(|error| status_of(&error))?;
    let malformed = StatusCode::BAD_GATEWAY;
    let response = ProxyResponse::parse(&response).ok_or(malformed)?;
    let status = response.status().ok_or(malformed)?;
    if !status.is_success() {
        return Err(status);
    }
    let subprotocol = response.header("Sec-WebSocket-Protocol");
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
