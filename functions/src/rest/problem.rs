//! Errors of the REST interface, as RFC 9457 has them.

use aws::{
    connections::ConnectionError,
    error::{Chain, StoreError},
};
use axum::{
    Json,
    http::{
        HeaderValue, StatusCode,
        header::{CONTENT_TYPE, RETRY_AFTER},
    },
    response::{IntoResponse, Response},
};
use domain::policy::{Fault, Unsound};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::{access::rules::RulesError, connection::replay::ReplayError};

/// An `application/problem+json` document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// A sentence about this very problem.
    pub detail: String,
    /// When to try again, in seconds; for the header `Retry-After`.
    #[serde(skip)]
    #[schema(ignore)]
    pub retry_after_s: Option<u64>,
    /// What is wrong with rules, and where.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<Object>)]
    pub faults: Vec<Fault>,
    /// The names nearest to one that does not exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nearest: Vec<String>,
}

impl Problem {
    /// A problem with a sentence about it.
    pub fn new(status: StatusCode, detail: impl Into<String>) -> Self {
        Self {
            status: status.as_u16(),
            title: status.canonical_reason().unwrap_or("Error").to_owned(),
            detail: detail.into(),
            retry_after_s: None,
            faults: Vec::new(),
            nearest: Vec::new(),
        }
    }

    /// Names what the caller may have meant.
    #[must_use]
    pub fn with_nearest(self, nearest: Vec<String>) -> Self {
        Self { nearest, ..self }
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
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "the database is away; try again")
        } else {
            Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be completed")
        }
    }
}

impl From<RulesError> for Problem {
    fn from(error: RulesError) -> Self {
        error!(error = %Chain(&error), "request failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "what is permitted is not known; try again")
    }
}

impl From<Unsound> for Problem {
    fn from(error: Unsound) -> Self {
        let problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, error.to_string());
        Self { faults: error.0, ..problem }
    }
}

impl From<ConnectionError> for Problem {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::NotOpen(_) => Self::new(StatusCode::GONE, "the connection is closed"),
            ConnectionError::TooManyTopics { .. } => {
                Self::new(StatusCode::CONFLICT, error.to_string())
            }
            ConnectionError::Store(error) => error.into(),
        }
    }
}

impl From<ReplayError> for Problem {
    fn from(error: ReplayError) -> Self {
        match error {
            ReplayError::Gone => Self::new(StatusCode::GONE, "the connection is closed"),
            ReplayError::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "the connection takes no more")
            }
            ReplayError::Store(error) => error.into(),
            ReplayError::Connection(error) => error.into(),
            ReplayError::Rules(error) => error.into(),
            error @ ReplayError::Forbidden(_) => {
                Self::new(StatusCode::FORBIDDEN, error.to_string())
            }
            ReplayError::Post(error) => {
                error!(error = %Chain(&error), "request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be completed")
            }
        }
    }
}
