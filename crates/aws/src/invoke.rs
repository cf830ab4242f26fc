//! Invoking Lambda functions and waiting for their responses.

use std::time::Duration;

use aws_config::{SdkConfig, timeout::TimeoutConfig};
use bytes::Bytes;
use domain::chain::BoxError;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use crate::call::{Call, CallError, Input, Target};

/// Lambda's `Invoke` (AWS Lambda API reference, "Invoke"; API version 2015-03-31).
const INVOKE: Target = Target { service: "Lambda", host: "lambda", operation: "Invoke" };

/// Longest wait for a connection to Lambda.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// In a path, only the unreserved characters of RFC 3986 are not percent-encoded.
const PATH_SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why an invocation failed.
#[derive(Debug, thiserror::Error)]
pub enum InvokeError {
    /// There are too many concurrent invocations; the same event may succeed later.
    #[error("invocation of {function} was throttled")]
    Throttled {
        /// The function.
        function: String,
        /// The error of the SDK.
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
        /// `errorType` of its response.
        error_type: String,
        /// `errorMessage` of its response.
        message: String,
    },
    /// The function could not be reached, or the program lacks permission to invoke it.
    #[error("function {function} cannot be invoked")]
    Unavailable {
        /// The function.
        function: String,
        /// The error of the SDK.
        #[source]
        source: BoxError,
    },
}

/// Lambda's `Invoke`, of AWS or of an emulator that implements its protocol.
#[derive(Clone, Debug)]
pub struct Lambda {
    call: Call,
}

/// The response of a function that failed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Failure {
    error_type: String,
    error_message: String,
}

impl Lambda {
    /// Invokes functions at the endpoint of `config`, and waits up to `timeout` for each.
    pub fn new(config: &SdkConfig, timeout: Duration) -> Self {
        let timeouts = TimeoutConfig::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .operation_attempt_timeout(timeout)
            .build();
        // No retries: an event must not be handled twice because its response is late.
        Self { call: Call::new(config, INVOKE, timeouts, None) }
    }

    /// Invokes the function with this name or ARN, and returns its JSON response.
    ///
    /// # Errors
    ///
    /// [`InvokeError`] when the invocation fails.
    pub async fn invoke(
        &self,
        function: &str,
        event: impl Into<Vec<u8>>,
    ) -> Result<Bytes, InvokeError> {
        let name = utf8_percent_encode(function, PATH_SEGMENT);
        let input = Input {
            path: format!("/2015-03-31/functions/{name}/invocations"),
            headers: vec![
                ("content-type", "application/octet-stream"),
                ("x-amz-invocation-type", "RequestResponse"),
            ],
            body: event.into(),
        };
        let response = self.call.send(input).await.map_err(|error| classify(function, error))?;
        // AWS reports a failed function in a header. Its Runtime Interface Emulator does so in the body only.
        let failure = match response.header("x-amz-function-error") {
            Some(kind) => Some(failure_in(&response.body).unwrap_or_else(|| {
                let text = String::from_utf8_lossy(&response.body).into_owned();
                Failure { error_type: kind.to_owned(), error_message: text }
            })),
            None => failure_in(&response.body),
        };
        match failure {
            None => Ok(response.body),
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

fn classify(function: &str, error: CallError) -> InvokeError {
    let name = function.to_owned();
    let Some(service_error) = error.as_service_error() else {
        return InvokeError::Unavailable { function: name, source: error.into() };
    };
    // `cargo lambda watch` reports a failed function with status 500, AWS with status 200.
    if let Some(failure) = failure_in(&service_error.body) {
        return failed(function, failure);
    }
    match (service_error.status, service_error.code.as_deref()) {
        (429, _) => InvokeError::Throttled { function: name, source: error.into() },
        (404, _) | (_, Some("ResourceNotFoundException")) => {
            InvokeError::NotFound { function: name }
        }
        _ => InvokeError::Unavailable { function: name, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::canned::Canned;

    #[tokio::test]
    async fn a_function_is_invoked_once_and_its_response_is_sorted() {
        let failure = r#"{"errorType":"Broken","errorMessage":"no"}"#;
        let header = &[("x-amz-function-error", "Unhandled")][..];
        let cases = [
            (200, &[][..], r#"{"delivered":1}"#, r#"Ok({"delivered":1})"#),
            (200, &[], failure, "function a:b failed with Broken: no"),
            (200, header, "out of memory", "function a:b failed with Unhandled: out of memory"),
            (500, &[], failure, "function a:b failed with Broken: no"),
            (429, &[], r#"{"Type":"User"}"#, "invocation of a:b was throttled"),
            (404, &[], "{}", "there is no function a:b"),
            (503, &[], "{}", "function a:b cannot be invoked"),
        ];
        for (status, headers, body, expected) in cases {
            let canned = Canned::new([(status, headers, body)]);
            let lambda = Lambda::new(&canned.config(), Duration::from_secs(1));
            let result = match lambda.invoke("a:b", "{}").await {
                Ok(body) => format!("Ok({})", String::from_utf8_lossy(&body)),
                Err(error) => error.to_string(),
            };
            assert_eq!(result, expected, "case: {status} {body}");
            let [request] = &canned.requests()[..] else {
                panic!("case: {status}: not one request")
            };
            assert_eq!(request.uri, "http://aws.test/2015-03-31/functions/a%3Ab/invocations");
            assert!(request.authorization.contains("/eu-central-1/lambda/aws4_request"));
        }
    }

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
