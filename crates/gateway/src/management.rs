//! The management API: `POST`, `GET` and `DELETE` on `/{stage}/@connections/{id}`.

use bytes::Bytes;
use http::{Method, StatusCode, header};
use serde_json::json;

use crate::{
    clock,
    config::Callbacks,
    http_server::request::HttpRequest,
    http_server::response::{self, HttpResponse, with_error_type},
    ids,
    post_error::PostError,
    sockets::socket::CloseStatus,
    state::GatewayState,
};

/// How the `Authorization` header of a signed call begins (Signature Version 4).
const SIGNED: &str = "AWS4-HMAC-SHA256 ";

/// Headers that no AWS SDK sends.
const FOREIGN: [&str; 7] = [
    "forwarded",
    "origin",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-real-ip",
];

/// Returns the response to a call that is not admitted, which does not depend on its body.
pub(crate) fn refuse(
    state: &GatewayState,
    request: &HttpRequest,
    id: &str,
) -> Option<HttpResponse> {
    let is_permitted = match state.config.callbacks {
        Callbacks::Off => false,
        Callbacks::Loopback => request.source_ip.is_loopback(),
        Callbacks::Everyone => true,
    };
    // A browser sends the origin of the page, and a proxy says for whom it calls. Functions call directly.
    let is_foreign = FOREIGN.iter().any(|name| request.headers.contains_key(*name));
    if !is_permitted || is_foreign {
        return Some(forbidden());
    }
    if !request.header(header::AUTHORIZATION).is_some_and(|it| it.starts_with(SIGNED)) {
        return Some(with_error_type(
            response::message(StatusCode::FORBIDDEN, "Missing Authentication Token"),
            "MissingAuthenticationTokenException",
        ));
    }
    if !ids::is_well_formed(id) {
        return Some(bad_request(&format!("Invalid connectionId: {id}")));
    }
    None
}

/// Handles an admitted call about the connection `id`. The body is `None` if it exceeded the size limit.
pub(crate) fn handle(
    state: &GatewayState,
    request: &HttpRequest,
    id: &str,
    body: Option<&Bytes>,
) -> HttpResponse {
    if !state.sockets.admits_request() {
        return busy();
    }
    match request.method {
        Method::POST => post(state, id, body),
        Method::GET => describe(state, id),
        Method::DELETE => delete(state, id),
        _ => forbidden(),
    }
}

/// Returns the response to a call that is not permitted, or whose path has another stage.
pub(crate) fn forbidden() -> HttpResponse {
    with_error_type(response::error(StatusCode::FORBIDDEN), "ForbiddenException")
}

fn post(state: &GatewayState, id: &str, body: Option<&Bytes>) -> HttpResponse {
    let result = body.map_or(Err(PostError::TooLarge), |body| state.sockets.post_to(id, body));
    match result {
        Ok(()) => response::plain(StatusCode::OK, Bytes::new()),
        Err(PostError::Gone) => gone(),
        Err(PostError::Busy) => busy(),
        Err(PostError::TooLarge) => with_error_type(
            response::message(StatusCode::PAYLOAD_TOO_LARGE, "Message too long"),
            "PayloadTooLargeException",
        ),
        Err(PostError::Injected) => {
            response::message(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
        Err(PostError::NotText) => bad_request("Message is not UTF-8 text"),
    }
}

fn describe(state: &GatewayState, id: &str) -> HttpResponse {
    let Some(socket) = state.sockets.find(id) else { return gone() };
    let body = json!({
        "connectedAt": clock::iso_8601(socket.client.connected_at),
        "identity": {
            "sourceIp": socket.client.source_ip.to_string(),
            "userAgent": socket.client.user_agent,
        },
        "lastActiveAt": clock::iso_8601(socket.last_active()),
    });
    response::json(StatusCode::OK, body.to_string())
}

fn delete(state: &GatewayState, id: &str) -> HttpResponse {
    let Some(socket) = state.sockets.remove(id) else { return gone() };
    socket.close(Some(CloseStatus::NORMAL.code), CloseStatus::NORMAL);
    response::plain(StatusCode::NO_CONTENT, Bytes::new())
}

/// Returns the error of a closed connection. AWS SDKs read its type from the header, and only if the
/// body is empty or JSON.
fn gone() -> HttpResponse {
    with_error_type(response::plain(StatusCode::GONE, Bytes::new()), "GoneException")
}

fn busy() -> HttpResponse {
    with_error_type(
        response::plain(StatusCode::TOO_MANY_REQUESTS, Bytes::new()),
        "LimitExceededException",
    )
}

fn bad_request(message: &str) -> HttpResponse {
    with_error_type(response::message(StatusCode::BAD_REQUEST, message), "BadRequestException")
}
