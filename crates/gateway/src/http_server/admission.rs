//! Which requests are handled at all: those that are not ambiguous, and that name a host of ours.

use http::{HeaderValue, StatusCode, Version, header, uri::Authority};

use crate::{config::Config, http_server::request::HttpRequest};

/// Headers that decide something. Parties that read different ones of two would disagree.
const UNIQUE: [header::HeaderName; 5] = [
    header::HOST,
    header::ORIGIN,
    header::AUTHORIZATION,
    header::SEC_WEBSOCKET_KEY,
    header::SEC_WEBSOCKET_VERSION,
];

/// The status and the message of the response to a request that is not handled.
pub(crate) type Refusal = (StatusCode, &'static str);

/// Why a host is not served.
const NOT_OURS: &str =
    "Host is not served here: the gateway's hosts (HEADWATER_HOSTS) do not name it";

/// Checks a request before any part of the gateway handles it.
pub(crate) fn check(config: &Config, request: &HttpRequest) -> Result<(), Refusal> {
    if UNIQUE.iter().any(|name| request.headers.get_all(name).iter().nth(1).is_some()) {
        return Err((StatusCode::BAD_REQUEST, "A header that may occur once occurs twice"));
    }
    let Some(value) = request.headers.get(header::HOST) else {
        // RFC 9112 section 3.2: a request without a host is invalid from HTTP/1.1 on.
        let is_old = request.version < Version::HTTP_11;
        return if is_old { Ok(()) } else { Err((StatusCode::BAD_REQUEST, "Host is missing")) };
    };
    let host = authority(value).ok_or((StatusCode::BAD_REQUEST, "Host is not valid"))?;
    let is_ours = config.hosts.admit(&host) || config.domain.as_deref() == Some(host.as_str());
    if is_ours { Ok(()) } else { Err((StatusCode::FORBIDDEN, NOT_OURS)) }
}

/// Returns a host with or without a port.
fn authority(value: &HeaderValue) -> Option<Authority> {
    let authority: Authority = value.to_str().ok()?.parse().ok()?;
    let text = authority.as_str();
    let after_address = text.rsplit_once(']').map_or(text, |(_, rest)| rest);
    let is_port_valid = after_address.contains(':') == authority.port_u16().is_some();
    let is_valid = !authority.host().is_empty() && !text.contains('@') && is_port_valid;
    is_valid.then_some(authority)
}
