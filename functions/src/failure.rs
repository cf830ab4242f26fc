//! How a handler's error leaves a Lambda function.

use aws::error::{Chain, StoreError};
use lambda_runtime::Diagnostic;

use crate::{authorize::Unauthorized, connection::ConnectionEventError};

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

impl From<Unauthorized> for Failure {
    fn from(error: Unauthorized) -> Self {
        // API Gateway looks for exactly this message.
        Self { error_type: "Unauthorized", message: error.to_string() }
    }
}

impl From<Failure> for Diagnostic {
    fn from(failure: Failure) -> Self {
        Self { error_type: failure.error_type.to_owned(), error_message: failure.message }
    }
}
