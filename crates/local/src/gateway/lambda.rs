//! Functions behind Lambda's `Invoke`: AWS's own, `cargo lambda watch`, `sam local start-lambda` or
//! any other that speaks its protocol.

use aws::invoke::{InvokeError, Lambda};
use bytes::Bytes;
use futures_util::future::BoxFuture;

use super::functions::{FunctionError, Functions};

impl Functions for Lambda {
    fn invoke<'a>(
        &'a self,
        function: &'a str,
        event: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, FunctionError>> {
        Box::pin(async move {
            // The event is this call's alone, so this copies nothing.
            Self::invoke(self, function, event).await.map_err(|error| match error {
                // What Lambda says when the function has run out of time (developer guide,
                // "Troubleshoot invocation issues in Lambda").
                InvokeError::Function { error_type, message, .. }
                    if error_type == "Sandbox.Timedout" || message.contains("Task timed out") =>
                {
                    FunctionError::Timeout
                }
                InvokeError::Function { error_type, message, .. } => {
                    FunctionError::Handled { error_type, message }
                }
                error => FunctionError::Unavailable(error.into()),
            })
        })
    }
}
