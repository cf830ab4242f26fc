//! Addresses of HTTP requests, and headers of responses.

use std::time::Duration;

use domain::retry_after;
use jiff::Timestamp;
use reqwest::{
    Url,
    header::{HeaderMap, RETRY_AFTER},
};

/// Returns the address of a path below `base`.
pub(super) fn below(base: &Url, path: &[&str]) -> Url {
    let mut url = base.clone();
    if let Ok(mut segments) = url.path_segments_mut() {
        segments.pop_if_empty().extend(path);
    }
    url
}

/// Returns how long a response asks the client to wait.
pub(super) fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    retry_after::parse(headers.get(RETRY_AFTER)?.to_str().ok()?, now)
}
