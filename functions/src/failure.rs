//! How a handler's error leaves a Lambda function.

use aws::error::{Chain, StoreError};
use lambda_runtime::Diagnostic;

use crate::{access::authorize::AuthorizeError, connection::ConnectionEventError, push::JobError};

/// A handler's error, with a stable type and its causes in the message.
#[derive(Debug)]
pub struct Failure {
    /// Such as `StoreError`.
    pub error_type: &'static str,
    /// The error and its causes.
    pub message: String,
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self { error_type: "StoreError", message: Chain(&error).to_string() }
    }
}

impl From<ConnectionEventError> for Failure {
    fn from(error: ConnectionEventError) -> Self {
        Self { error_type: "ConnectionEventError", message: Chain(&error).to_string() }
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        Self { error_type: "JobError", message: Chain(&error).to_string() }
    }
}

impl From<AuthorizeError> for Failure {
    fn from(error: AuthorizeError) -> Self {
        // API Gateway looks for exactly this message.
        let error_type = match &error {
            AuthorizeError::Unauthorized => "Unauthorized",
            AuthorizeError::Unavailable => "Unavailable",
        };
        Self { error_type, message: error.to_string() }
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self { error_type: failure.error_type.to_owned(), error_message: failure.message }
    }
}
