//! The management API: `POST`, `GET` and `DELETE` on `/{stage}/@connections/{id}`.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;

use super::{
    Callbacks, Shared, clock, ids,
    post_error::PostError,
    request::Request,
    respond::{self, Response, with_error_type},
    socket::End,
};

/// Answers a call about the connection `id`. The body is none if it was too large to read.
pub(super) fn answer(
    shared: &Shared,
    request: &Request,
    id: &str,
    body: Option<&Bytes>,
) -> Response {
    let is_permitted = match shared.config.callbacks {
        Callbacks::Off => false,
        Callbacks::Loopback => {
            request.source_ip.is_loopback() && request.header("x-forwarded-for").is_none()
        }
        Callbacks::Everyone => true,
    };
    if !is_permitted {
        return forbidden();
    }
    if !shared.sockets.admits_request() {
        return busy();
    }
    if !ids::is_well_formed(id) {
        return bad_request(&format!("Invalid connectionId: {id}"));
    }
    match request.method {
        Method::POST => post(shared, id, body),
        Method::GET => describe(shared, id),
        Method::DELETE => delete(shared, id),
        _ => forbidden(),
    }
}

/// The answer to a path with another stage, or to a call that is not permitted.
pub(super) fn forbidden() -> Response {
    with_error_type(respond::error(StatusCode::FORBIDDEN), "ForbiddenException")
}

fn post(shared: &Shared, id: &str, body: Option<&Bytes>) -> Response {
    let result = body.map_or(Err(PostError::TooLarge), |body| shared.sockets.post_to(id, body));
    match result {
        Ok(()) => respond::plain(StatusCode::OK, Bytes::new()),
        Err(PostError::Gone) => gone(),
        Err(PostError::Busy) => busy(),
        Err(PostError::TooLarge) => with_error_type(
            respond::message(StatusCode::PAYLOAD_TOO_LARGE, "Message too long"),
            "PayloadTooLargeException",
        ),
        Err(PostError::Injected) => {
            respond::message(StatusCode::INTERNAL_SERVER_ERROR, "Internal server error")
        }
        Err(PostError::NotText) => bad_request("Message is not UTF-8 text"),
    }
}

fn describe(shared: &Shared, id: &str) -> Response {
    let Some(socket) = shared.sockets.find(id) else { return gone() };
    let body = json!({
        "connectedAt": clock::iso_8601(socket.client.connected_at),
        "identity": {
            "sourceIp": socket.client.source_ip.to_string(),
            "userAgent": socket.client.user_agent,
        },
        "lastActiveAt": clock::iso_8601(socket.last_active()),
    });
    respond::json(StatusCode::OK, body.to_string())
}

fn delete(shared: &Shared, id: &str) -> Response {
    let Some(socket) = shared.sockets.remove(id) else { return gone() };
    socket.close(Some(End::DELETED.code), End::DELETED);
    respond::plain(StatusCode::NO_CONTENT, Bytes::new())
}

/// AWS SDKs find the type only in the header, and only if the body is empty or JSON.
fn gone() -> Response {
    with_error_type(respond::plain(StatusCode::GONE, Bytes::new()), "GoneException")
}

fn busy() -> Response {
    with_error_type(
        respond::plain(StatusCode::TOO_MANY_REQUESTS, Bytes::new()),
        "LimitExceededException",
    )
}

fn bad_request(message: &str) -> Response {
    with_error_type(respond::message(StatusCode::BAD_REQUEST, message), "BadRequestException")
}
