//! HTTP responses of upstreams: their `Retry-After`, and their bodies up to a maximum size.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use domain::retry_after;
use jiff::Timestamp;
use reqwest::{
    Response,
    header::{HeaderMap, RETRY_AFTER},
};

/// Why the body of a response could not be read.
#[derive(Debug)]
pub(super) enum BodyError {
    /// The connection failed.
    Http(reqwest::Error),
    /// The body is larger than allowed.
    TooLarge,
}

/// Returns how long a response asks the client to wait.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    retry_after::parse(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}

/// Reads the body of a response, up to `max_bytes`.
pub(super) async fn read_body(
    mut response: Response,
    max_bytes: usize,
) -> Result<Bytes, BodyError> {
    let mut body = BytesMut::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Http)? {
        if body.len() + chunk.len() > max_bytes {
            return Err(BodyError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body.freeze())
}
