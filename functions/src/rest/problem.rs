//! Errors of the REST interface: problem documents (RFC 9457).

use aws::{connections::ConnectionError, error::StoreError};
use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{ALLOW, CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use domain::{
    chain::Chain,
    rules::{Defect, InvalidSet},
};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::{
    access::{rates::RateLimited, rules::RulesError},
    log_id::LogIdError,
    subscription::SubscribeError,
};

/// An `application/problem+json` document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(super) struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The name of the status.
    pub title: String,
    /// A sentence about this occurrence of the problem.
    pub detail: String,
    /// Seconds after which the client can retry, for the `Retry-After` header.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after_s: Option<u64>,
    /// The errors in a set of rules, with their positions.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub faults: Vec<Defect>,
    /// The existing names that are nearest to an unknown name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<String>,
}

impl Problem {
    /// Returns a problem with a sentence that describes it.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            retry_after_s: None,
            faults: Vec::new(),
            nearest: Vec::new(),
        }
    }

    /// Adds the names that the caller probably meant.
    #[must_use]
    pub(super) fn with_nearest(self, nearest: Vec<String>) -> Self {
        Self { nearest, ..self }
    }

    /// Returns the problem of a value that is malformed.
    pub(super) fn unprocessable(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, detail)
    }

    /// Returns the problem of a caller that exceeds a limit.
    pub(super) fn rate_limited(detail: impl Into<String>, limited: RateLimited) -> Self {
        let RateLimited(wait) = limited;
        let wait_s = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        let problem = Self::new(StatusCode::TOO_MANY_REQUESTS, detail);
        Self { retry_after_s: Some(wait_s.max(1)), ..problem }
    }

    /// Returns the problem of a connection that is closed.
    pub(super) fn connection_closed() -> Self {
        Self::new(StatusCode::GONE, "the connection is closed")
    }

    /// Returns the response to a method that a path does not support.
    pub(super) fn method_not_allowed(allow: Option<HeaderValue>) -> Response {
        let detail = "the method is not supported at this path";
        let mut response = Self::new(StatusCode::METHOD_NOT_ALLOWED, detail).into_response();
        if let Some(allow) = allow {
            response.headers_mut().insert(ALLOW, allow);
        }
        response
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let unavailable = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(1);
        let retry_after_s = self.retry_after_s.or(unavailable);
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        if let Some(seconds) = retry_after_s {
            response.headers_mut().insert(RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        error!(error = %Chain(&error), "request failed");
        if error.is_retryable() {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database is unavailable; try again")
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be completed")
        }
    }
}

impl From<RulesError> for Problem {
    fn from(error: RulesError) -> Self {
        error!(error = %Chain(&error), "request failed");
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the permissions could not be checked; try again",
        )
    }
}

impl From<LogIdError> for Problem {
    fn from(error: LogIdError) -> Self {
        match error {
            LogIdError::Store(error) => error.into(),
            LogIdError::Missing => {
                let detail = "no poller has started yet; try again";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, detail)
            }
        }
    }
}

impl From<InvalidSet> for Problem {
    fn from(error: InvalidSet) -> Self {
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
        Self { faults: error.0, ..problem }
    }
}

impl From<ConnectionError> for Problem {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::NotOpen(_) => Self::connection_closed(),
            ConnectionError::TooManyTopics { .. } => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            ConnectionError::Store(error) => error.into(),
        }
    }
}

impl From<SubscribeError> for Problem {
    fn from(error: SubscribeError) -> Self {
        match error {
            SubscribeError::Connection(error) => error.into(),
            SubscribeError::Store(error) => error.into(),
            SubscribeError::Rules(error) => error.into(),
            SubscribeError::LogId(error) => error.into(),
        }
    }
}
