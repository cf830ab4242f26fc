//! The headers of an event.

use lambda_http::http::HeaderMap;

/// Returns all headers of an event of a WebSocket API. Its `headers` have only the last value of each name.
pub(crate) fn all_headers<'a>(last: &'a HeaderMap, all: &'a HeaderMap) -> &'a HeaderMap {
    if all.is_empty() { last } else { all }
}
