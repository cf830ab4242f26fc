//! Errors of the REST interface, as RFC 9457 has them.

use aws::{
    connections::ConnectionError,
    error::{Chain, StoreError},
};
use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use crate::replay::ReplayError;

/// An `application/problem+json` document.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// The HTTP status.
    pub status: u16,
    /// The status in words.
    pub title: String,
    /// A sentence about this very problem.
    pub detail: String,
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
        let mut response = (status, Json(self)).into_response();
        let kind = HeaderValue::from_static("application/problem+json");
        response.headers_mut().insert(CONTENT_TYPE, kind);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert("retry-after", HeaderValue::from_static("1"));
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
            ReplayError::Post(error) => {
                error!(error = %Chain(&error), "request failed");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "the request could not be completed")
            }
        }
    }
}
