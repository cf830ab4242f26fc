//! Invoking Lambda functions and waiting for their answers.

use aws_sdk_lambda::{
    Client,
    error::{ProvideErrorMetadata as _, SdkError},
    operation::invoke::InvokeError as SdkInvokeError,
    primitives::Blob,
    types::InvocationType,
};
use bytes::Bytes;
use serde::Deserialize;

use crate::error::BoxError;

/// Why an invocation gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// Too many invocations at once; the same event may succeed later.
    #[error("invocation of {function} was throttled")]
    Throttled {
        /// The function.
        function: String,
        /// What the SDK says.
        #[source]
        source: BoxError,
    },
    /// There is no function with this name.
    #[error("there is no function {function}")]
    NotFound {
        /// The function.
        function: String,
    },
    /// The function itself failed.
    #[error("function {function} failed with {error_type}: {message}")]
    Function {
        /// The function.
        function: String,
        /// `errorType` of what it answered.
        error_type: String,
        /// `errorMessage` of what it answered.
        message: String,
    },
    /// It could not be reached, or may not be invoked.
    #[error("function {function} cannot be invoked")]
    Unavailable {
        /// The function.
        function: String,
        /// What the SDK says.
        #[source]
        source: BoxError,
    },
}

/// Lambda's `Invoke`, of AWS or of whatever speaks its protocol.
#[derive(Clone, Debug)]
pub struct Lambda {
    client: Client,
}

/// What a function answers that has failed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    error_type: String,
    error_message: String,
}

impl Lambda {
    /// Invokes by this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Invokes the function with this name or ARN, and returns its JSON answer.
    ///
    /// # Errors
    ///
    /// [`InvokeError`] when it gives none.
    pub async fn invoke(
        &self,
        function: &str,
        event: impl Into<Vec<u8>>,
    ) -> Result<Bytes, InvokeError> {
        let answer = self
            .client
            .invoke()
            .function_name(function)
            .invocation_type(InvocationType::RequestResponse)
            .payload(Blob::new(event))
            .send()
            .await
            .map_err(|error| sort(function, error))?;
        let payload = answer.payload.map(Blob::into_inner).unwrap_or_default();
        // AWS tells a failure by a header. Its Runtime Interface Emulator tells it by the answer alone.
        let failure = match answer.function_error {
            Some(kind) => Some(failure_in(&payload).unwrap_or_else(|| {
                let text = String::from_utf8_lossy(&payload).into_owned();
                Failure { error_type: kind, error_message: text }
            })),
            None => failure_in(&payload),
        };
        match failure {
            None => Ok(payload.into()),
            Some(failure) => Err(failed(function, failure)),
        }
    }
}

fn failure_in(payload: &[u8]) -> Option<Failure> {
    serde_json::from_slice(payload).ok()
}

fn failed(function: &str, failure: Failure) -> InvokeError {
    let Failure { error_type, error_message: message } = failure;
    InvokeError::Function { function: function.to_owned(), error_type, message }
}

fn sort(
    function: &str,
    error: SdkError<SdkInvokeError, aws_sdk_lambda::config::http::HttpResponse>,
) -> InvokeError {
    let name = function.to_owned();
    let status = error.raw_response().map(|response| response.status().as_u16());
    // `cargo lambda watch` answers 500 with what the function said, where AWS answers 200.
    let body = error.raw_response().and_then(|response| response.body().bytes());
    if let Some(failure) = body.and_then(failure_in) {
        return failed(function, failure);
    }
    match (status, error.code()) {
        (Some(429), _) => InvokeError::Throttled { function: name, source: error.into() },
        (Some(404), _) | (_, Some("ResourceNotFoundException")) => {
            InvokeError::NotFound { function: name }
        }
        _ => InvokeError::Unavailable { function: name, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_a_failure_from_an_answer() {
        let cases = [
            (r#"{"errorType":"Broken","errorMessage":"no"}"#, true),
            (r#"{"errorType":"Broken","errorMessage":"no","stackTrace":[]}"#, true),
            (r#"{"errorType":"Broken"}"#, false),
            (r#"{"statusCode":500}"#, false),
            ("null", false),
            ("", false),
        ];
        for (payload, expected) in cases {
            assert_eq!(failure_in(payload.as_bytes()).is_some(), expected, "case: {payload}");
        }
    }
}
