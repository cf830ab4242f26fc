//! Requests to a server's REST interface, bounded in size, time and number.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use reqwest::{Client, Response, StatusCode, header, redirect::Policy};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use url::Url;

use super::{
    instance::{Instance, Part},
    status::Status,
};

/// Statuses of a page; servers give no more.
pub(super) const PAGE: usize = 40;
/// Statuses that one request can ask for by id.
pub(super) const BATCH: usize = 20;
/// Largest answer that is read, in bytes.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;
/// Longest that a request takes.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait that a server can impose.
const MAX_WAIT: Duration = Duration::from_mins(15);

/// A server's REST interface.
pub(super) struct Api {
    http: Client,
    base: Url,
    token: Option<SecretString>,
    budget: Mutex<Option<Budget>>,
}

/// What a server lets its clients ask until some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Budget {
    remaining: u32,
    reset: Timestamp,
}

/// Why a request got no answer of use.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// The request or its answer did not arrive.
    #[error("request failed")]
    Http(#[source] reqwest::Error),
    /// It answered with an error.
    #[error("answered {0}")]
    Status(StatusCode),
    /// It asks to wait.
    #[error("asks to wait {} s", .0.as_secs())]
    Limited(Duration),
    /// Its answer is larger than any that means something.
    #[error("answer is larger than {MAX_BODY_BYTES} bytes")]
    TooLarge,
    /// Its answer is not JSON.
    #[error("answer is not JSON")]
    NotJson(#[source] serde_json::Error),
}

impl ApiError {
    /// Why the server cannot be read for as long as nobody changes something, if that is so.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        match self {
            Self::Status(StatusCode::UNAUTHORIZED) => {
                Some("it refuses the request: the token is missing, revoked or not a user's (401)")
            }
            Self::Status(StatusCode::FORBIDDEN) => Some(
                "it forbids the request: the token lacks read:statuses, or we are blocked (403)",
            ),
            Self::Status(StatusCode::UNPROCESSABLE_ENTITY) => {
                Some("it shows its public timeline only to its users (422)")
            }
            Self::Status(_)
            | Self::Http(_)
            | Self::Limited(_)
            | Self::TooLarge
            | Self::NotJson(_) => None,
        }
    }
}

/// A page of a timeline.
#[derive(Debug, Default)]
pub(super) struct Page {
    /// Its statuses, newest first; those that cannot be read are left out.
    pub(super) statuses: Vec<Status>,
    /// How many the server sent.
    pub(super) len: usize,
    /// Where the next newer page is.
    pub(super) newer: Option<Url>,
}

impl Api {
    /// The interface of the server at `base`.
    ///
    /// # Errors
    ///
    /// When no HTTP client can be made.
    pub(super) fn new(
        base: Url,
        token: Option<SecretString>,
        user_agent: &str,
    ) -> Result<Self, reqwest::Error> {
        // A token must not follow a redirect to another host.
        let policy = Policy::custom(|attempt| {
            let from = attempt.previous().first().map(Url::origin);
            if from == Some(attempt.url().origin()) && attempt.previous().len() <= 5 {
                attempt.follow()
            } else {
                attempt.stop()
            }
        });
        let http = Client::builder()
            .user_agent(user_agent)
            .timeout(TIMEOUT)
            .connect_timeout(Duration::from_secs(10))
            .redirect(policy)
            .build()?;
        Ok(Self { http, base, token, budget: Mutex::new(None) })
    }

    /// The token to stream with.
    pub(super) fn token(&self) -> Option<&SecretString> {
        self.token.as_ref()
    }

    /// Asks what the server says of itself.
    pub(super) async fn instance(&self) -> Result<Instance, ApiError> {
        let answer = match self.json(self.url(&["api", "v2", "instance"])).await {
            Err(ApiError::Status(status)) if status.is_client_error() => {
                self.json(self.url(&["api", "v1", "instance"])).await
            }
            answer => answer,
        };
        Ok(Instance::read(&answer?.0, &self.base))
    }

    /// Asks for the page of the public timeline next newer than the status `after`, or the newest.
    pub(super) async fn page(&self, part: Part, after: Option<&str>) -> Result<Page, ApiError> {
        let limit = PAGE.to_string();
        let part = match part {
            Part::Whole => None,
            Part::Local => Some(("local", "true")),
            Part::Remote => Some(("remote", "true")),
        };
        let after = after.map(|id| ("min_id", id));
        let mut url = self.url(&["api", "v1", "timelines", "public"]);
        let query = [Some(("limit", limit.as_str())), part, after];
        url.query_pairs_mut().extend_pairs(query.into_iter().flatten());
        self.page_at(url).await
    }

    /// Asks for the page at a URL that the server gave.
    pub(super) async fn page_at(&self, url: Url) -> Result<Page, ApiError> {
        let (json, links) = self.json(url).await?;
        let Value::Array(items) = json else { return Ok(Page::default()) };
        let len = items.len();
        let statuses = items.into_iter().filter_map(Status::new).collect();
        // Another host must get neither the token nor our trust.
        let newer = links.filter(|url| url.origin() == self.base.origin());
        Ok(Page { statuses, len, newer })
    }

    /// Asks for statuses by id, at most [`BATCH`]; those that are gone are left out.
    pub(super) async fn statuses(&self, ids: &[String]) -> Result<Vec<Status>, ApiError> {
        let mut url = self.url(&["api", "v1", "statuses"]);
        url.query_pairs_mut().extend_pairs(ids.iter().map(|id| ("id[]", id)));
        let (json, _) = self.json(url).await?;
        let Value::Array(items) = json else { return Err(ApiError::Status(StatusCode::NOT_FOUND)) };
        Ok(items.into_iter().filter_map(Status::new).collect())
    }

    /// Asks for a status; `None` where it is gone.
    pub(super) async fn status(&self, id: &str) -> Result<Option<Status>, ApiError> {
        match self.json(self.url(&["api", "v1", "statuses", id])).await {
            Ok((json, _)) => Ok(Status::new(json)),
            Err(ApiError::Status(StatusCode::NOT_FOUND | StatusCode::GONE)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How long to wait between requests so that the server's budget lasts.
    pub(super) fn pause(&self, now: Timestamp) -> Duration {
        self.budget
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .map_or(Duration::ZERO, |b| b.pause(now))
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().extend(path);
        }
        url
    }

    async fn json(&self, url: Url) -> Result<(Value, Option<Url>), ApiError> {
        let mut request = self.http.get(url);
        if let Some(token) = &self.token {
            request = request.bearer_auth(token.expose_secret());
        }
        let response = request.send().await.map_err(|error| ApiError::Http(error.without_url()))?;
        let now = Timestamp::now();
        if let Some(budget) = Budget::of(&response) {
            *self.budget.lock().unwrap_or_else(PoisonError::into_inner) = Some(budget);
        }
        match response.status() {
            status if status.is_success() => {}
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                return Err(ApiError::Limited(retry_after(&response, now)));
            }
            status => return Err(ApiError::Status(status)),
        }
        let newer = response.headers().get(header::LINK).and_then(|link| prev(link.to_str().ok()?));
        let body = body(response).await?;
        Ok((serde_json::from_slice(&body).map_err(ApiError::NotJson)?, newer))
    }
}

impl Budget {
    fn of(response: &Response) -> Option<Self> {
        let header = |name| response.headers().get(name)?.to_str().ok();
        let remaining = header("x-ratelimit-remaining")?.parse().ok()?;
        let reset = header("x-ratelimit-reset")?.parse().ok()?;
        Some(Self { remaining, reset })
    }

    fn pause(self, now: Timestamp) -> Duration {
        // A cached answer can name a time that has passed.
        let left = Duration::try_from(self.reset.duration_since(now)).unwrap_or_default();
        left.min(MAX_WAIT) / (self.remaining + 1)
    }
}

/// How long a server that refuses for now asks to wait.
fn retry_after(response: &Response, now: Timestamp) -> Duration {
    let header = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let seconds = header.and_then(|value| value.parse().ok()).map(Duration::from_secs);
    let budget = Budget::of(response).map(|budget| budget.pause(now));
    seconds.or(budget).unwrap_or(Duration::from_secs(30)).clamp(Duration::from_secs(1), MAX_WAIT)
}

/// The URL of relation `prev`, which is the newer page.
fn prev(link: &str) -> Option<Url> {
    let entry = link.split(',').find(|entry| entry.contains(r#"rel="prev""#))?;
    let (_, rest) = entry.split_once('<')?;
    Url::parse(rest.split_once('>')?.0).ok()
}

async fn body(mut response: Response) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|e| ApiError::Http(e.without_url()))? {
        if body.len() + chunk.len() > MAX_BODY_BYTES {
            return Err(ApiError::TooLarge);
        }
        body.extend_from_slice(&chunk);
    }
    Ok(body)
}

#[cfg(test)]
mod tests;
