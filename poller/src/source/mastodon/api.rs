//! Requests to a server's REST interface, with limits of size, time and rate.

use std::time::Duration;

use domain::retry_after::LONGEST;
use jiff::Timestamp;
use parking_lot::Mutex;
use reqwest::{
    StatusCode,
    header::{self, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{
    instance::{Instance, Part},
    status::Status,
};
use crate::{
    long_work,
    outside::{Get, GetError, Outside, Reach, Response},
    source::http::{self, below},
};

/// Statuses on a page. Servers do not return more.
pub(super) const PAGE: usize = 40;
/// Statuses in one request by id.
pub(super) const BATCH: usize = 20;
/// Largest response, in bytes. A page of 40 statuses has some hundred KB; parsed JSON takes up to twenty times as
/// much memory as its text.
const MAX_BODY_BYTES: usize = 2 * 1024 * 1024;
/// Longest time for a request.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A server's REST interface.
pub(super) struct Api {
    outside: Outside,
    base: Url,
    token: Option<SecretString>,
    rate_limit: Mutex<Option<RateLimit>>,
}

/// The number of requests that a server allows until a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RateLimit {
    remaining: u32,
    reset: Timestamp,
}

/// Why a request failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The request or the response did not arrive.
    #[error("request failed")]
    Http(#[source] GetError),
    /// The server answered with an error.
    #[error("server answered with status {0}")]
    Status(StatusCode),
    /// The server asks to wait.
    #[error("rate limited: server asks to wait {} s", .0.as_secs())]
    RateLimited(Duration),
    /// The response is too large.
    #[error("response is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// The token cannot be sent.
    #[error("the token contains characters that are not allowed in a token")]
    Token,
    /// The response is not JSON.
    #[error("response is not JSON")]
    NotJson(#[source] serde_json::Error),
}

impl ApiError {
    /// Returns the reason if a retry fails until someone changes the settings of the server or ours.
    pub(super) fn permanent_reason(&self) -> Option<&'static str> {
        match self {
            Self::Status(StatusCode::UNAUTHORIZED) => Some(
                "the server rejects the request: the token is missing, revoked or not a user's (401)",
            ),
            Self::Status(StatusCode::FORBIDDEN) => Some(
                "the server forbids the request: the token lacks read:statuses, or this client is blocked (403)",
            ),
            Self::Status(StatusCode::UNPROCESSABLE_ENTITY) => {
                Some("the server shows its public timeline only to its users (422)")
            }
            Self::Token => Some("the token contains characters that are not allowed in a token"),
            Self::Status(_)
            | Self::Http(_)
            | Self::RateLimited(_)
            | Self::TooLarge
            | Self::NotJson(_) => None,
        }
    }
}

/// A page of a timeline.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Its statuses, newest first, without those that cannot be parsed.
    pub(super) statuses: Vec<Status>,
    /// How many the server sent.
    pub(super) len: usize,
    /// The address of the next newer page.
    pub(super) newer: Option<Url>,
}

impl Api {
    /// Makes the interface of the server at `base`.
    pub(super) fn new(base: Url, token: Option<SecretString>, outside: Outside) -> Self {
        Self { outside, base, token, rate_limit: Mutex::new(None) }
    }

    /// Returns the network and the time.
    pub(super) fn outside(&self) -> &Outside {
        &self.outside
    }

    /// Returns which addresses a connection to `url` may have.
    pub(super) fn reach(&self, url: &Url) -> Reach {
        let host = url.host_str();
        let is_configured = host == self.base.host_str()
            || self.outside.streaming_hosts.iter().any(|it| Some(it.as_str()) == host);
        if is_configured { Reach::Any } else { Reach::Public }
    }

    /// Returns the header that sends the token, if there is one.
    ///
    /// # Errors
    ///
    /// [`ApiError::Token`] if the token cannot be sent in a header.
    pub(super) fn authorization(&self) -> Result<Option<HeaderValue>, ApiError> {
        let Some(token) = &self.token else { return Ok(None) };
        let value = HeaderValue::from_str(&format!("Bearer {}", token.expose_secret()));
        let mut value = value.map_err(|_| ApiError::Token)?;
        value.set_sensitive(true);
        Ok(Some(value))
    }

    /// Fetches the description of the server.
    pub(super) async fn instance(&self) -> Result<Instance, ApiError> {
        let response = match self.json(below(&self.base, &["api", "v2", "instance"])).await {
            Err(ApiError::Status(status)) if status.is_client_error() => {
                self.json(below(&self.base, &["api", "v1", "instance"])).await
            }
            response => response,
        };
        Ok(Instance::read(&response?.0, &self.base, &self.outside.streaming_hosts))
    }

    /// Fetches the page of the public timeline that follows the status `after`, or the newest.
    pub(super) async fn page(&self, part: Part, after: Option<&str>) -> Result<Page, ApiError> {
        let limit = PAGE.to_string();
        let part = match part {
            Part::Whole => None,
            Part::Local => Some(("local", "true")),
            Part::Remote => Some(("remote", "true")),
        };
        let after = after.map(|id| ("min_id", id));
        let mut url = below(&self.base, &["api", "v1", "timelines", "public"]);
        let query = [Some(("limit", limit.as_str())), part, after];
        url.query_pairs_mut().extend_pairs(query.into_iter().flatten());
        self.page_at(url).await
    }

    /// Fetches the page at a URL that the server returned.
    pub(super) async fn page_at(&self, url: Url) -> Result<Page, ApiError> {
        let (json, links) = self.json(url).await?;
        let Value::Array(items) = json else { return Ok(Page::default()) };
        let len = items.len();
        let statuses = items.into_iter().filter_map(Status::new).collect();
        // Another host is not trusted and must not get the token.
        let newer = links.filter(|url| url.origin() == self.base.origin());
        Ok(Page { statuses, len, newer })
    }

    /// Fetches at most [`BATCH`] statuses by id. Deleted ones are missing in the result.
    pub(super) async fn statuses(&self, ids: &[String]) -> Result<Vec<Status>, ApiError> {
        let mut url = below(&self.base, &["api", "v1", "statuses"]);
        url.query_pairs_mut().extend_pairs(ids.iter().map(|id| ("id[]", id)));
        let (json, _) = self.json(url).await?;
        let Value::Array(items) = json else { return Err(ApiError::Status(StatusCode::NOT_FOUND)) };
        Ok(items.into_iter().filter_map(Status::new).collect())
    }

    /// Fetches a status. Returns `None` if it is gone.
    pub(super) async fn status(&self, id: &str) -> Result<Option<Status>, ApiError> {
        match self.json(below(&self.base, &["api", "v1", "statuses", id])).await {
            Ok((json, _)) => Ok(Status::new(json)),
            Err(ApiError::Status(StatusCode::NOT_FOUND | StatusCode::GONE)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Returns how long to wait before the next request to stay within the server's rate limit.
    pub(super) fn pause(&self) -> Duration {
        let now = self.outside.clock.now();
        self.rate_limit.lock().map_or(Duration::ZERO, |b| b.pause(now))
    }

    async fn json(&self, url: Url) -> Result<(Value, Option<Url>), ApiError> {
        let authorization = self.authorization()?.map(|value| (header::AUTHORIZATION, value));
        let headers = authorization.into_iter().collect();
        let request = Get { url, headers, max_bytes: MAX_BODY_BYTES, within: TIMEOUT };
        let response = self.outside.network.get(request).await.map_err(|error| match error {
            GetError::TooLarge => ApiError::TooLarge,
            GetError::NoResponse(_) => ApiError::Http(error),
        })?;
        let now = self.outside.clock.now();
        if let Some(rate_limit) = RateLimit::of(&response) {
            *self.rate_limit.lock() = Some(rate_limit);
        }
        match response.status {
            status if status.is_success() => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                return Err(ApiError::RateLimited(retry_after(&response, now)));
            }
            status => return Err(ApiError::Status(status)),
        }
        let newer = response.headers.get(header::LINK).and_then(|link| prev(link.to_str().ok()?));
        let body = &response.body;
        let json = long_work::on_input(body.len(), || serde_json::from_slice(body));
        Ok((json.map_err(ApiError::NotJson)?, newer))
    }
}

impl RateLimit {
    fn of(response: &Response) -> Option<Self> {
        let header = |name| response.headers.get(name)?.to_str().ok();
        let remaining = header("x-ratelimit-remaining")?.parse().ok()?;
        let reset = header("x-ratelimit-reset")?.parse().ok()?;
        Some(Self { remaining, reset })
    }

    fn pause(self, now: Timestamp) -> Duration {
        // A cached response can name a time in the past.
        let left = Duration::try_from(self.reset.duration_since(now)).unwrap_or_default();
        left.min(LONGEST) / self.remaining.saturating_add(1)
    }
}

/// Returns how long a server asks to wait before the next request.
fn retry_after(response: &Response, now: Timestamp) -> Duration {
    let asked = http::retry_after(&response.headers, now);
    let pause = RateLimit::of(response).map(|rate_limit| rate_limit.pause(now));
    asked.or(pause).unwrap_or(Duration::from_secs(30)).clamp(Duration::from_secs(1), LONGEST)
}

/// Returns the URL of relation `prev`, which is the newer page.
fn prev(link: &str) -> Option<Url> {
    let entry = link.split(',').find(|entry| entry.contains(r#"rel="prev""#))?;
    let (_, rest) = entry.split_once('<')?;
    Url::parse(rest.split_once('>')?.0).ok()
}

#[cfg(test)]
mod tests;
