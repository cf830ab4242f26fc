//! The gateway's own HTTP responses.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

/// A response with its complete body.
pub(crate) type HttpResponse = http::Response<Full<Bytes>>;

/// Returns a response without headers.
pub(crate) fn plain(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = http::Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}

/// Returns a response with a JSON body.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> HttpResponse {
    let mut response = plain(status, body);
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}

/// Returns an error with the reason phrase of the status as its message.
pub(crate) fn error(status: StatusCode) -> HttpResponse {
    message(status, status.canonical_reason().unwrap_or("Error"))
}

/// Headers of errors. They keep frames and scripts of other sites from using a response.
const ERROR_HEADERS: [(HeaderName, &str); 3] = [
    (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// Returns an error with a message.
pub(crate) fn message(status: StatusCode, message: &str) -> HttpResponse {
    let mut response = json(status, json!({ "message": message }).to_string());
    for (name, value) in ERROR_HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Returns the response to a rejected handshake.
pub(crate) fn rejected_handshake(status: StatusCode) -> HttpResponse {
    let mut response = error(status);
    if status == StatusCode::UPGRADE_REQUIRED {
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13"));
    }
    response
}

/// Returns the response for an internal error.
pub(crate) fn failed() -> HttpResponse {
    error(StatusCode::INTERNAL_SERVER_ERROR)
}

/// Returns the response that completes a handshake. No extension is negotiated.
pub(crate) fn switching_protocols(key: &str, subprotocol: Option<HeaderValue>) -> HttpResponse {
    let mut response = plain(StatusCode::SWITCHING_PROTOCOLS, Bytes::new());
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::from_str(key) {
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
    }
    if let Some(subprotocol) = subprotocol {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, subprotocol);
    }
    response
}

/// Adds the header from which AWS SDKs read the type of an error.
pub(crate) fn with_error_type(
    mut response: HttpResponse,
    error_type: &'static str,
) -> HttpResponse {
    let name = HeaderName::from_static("x-amzn-errortype");
    response.headers_mut().insert(name, HeaderValue::from_static(error_type));
    response
}
