//! The error that a Lambda function reports.

use domain::chain::Chain;
use lambda_runtime::Diagnostic;

use crate::{access::authorize::AuthorizeError, connection::ConnectionEventError, push::JobError};

/// The error of a handler, with a stable type and a message that contains its causes.
#[derive(Debug)]
pub struct Failure {
    /// The type, such as `JobError`.
    pub error_type: &'static str,
    /// The error and its causes.
    pub message: String,
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
        // API Gateway compares the message, so it must not contain a cause.
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
