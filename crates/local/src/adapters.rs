//! The gateway's socket table as the outlet for posts, and Lambda's `Invoke` as its functions.

use std::sync::Arc;

use aws::invoke::{InvokeError, Lambda};
use bytes::Bytes;
use domain::{
    connection::Recipient,
    outlet::{Outlet, OutletError},
};
use futures_util::future::BoxFuture;
use gateway::{FunctionError, Functions, Sockets};

/// Posts to the connections of a gateway in this process.
#[derive(Debug)]
pub(crate) struct SocketTable(pub(crate) Arc<Sockets>);

impl Outlet for SocketTable {
    fn post<'a>(
        &'a self,
        recipients: &'a [Recipient],
        message: Bytes,
    ) -> BoxFuture<'a, Vec<(usize, OutletError)>> {
        Box::pin(async move {
            let ids: Vec<&str> = recipients.iter().map(|to| to.id.as_str()).collect();
            let rejected = self.0.post(&ids, message).await;
            rejected.into_iter().map(|(index, error)| (index, outlet_error(error))).collect()
        })
    }

    fn close<'a>(&'a self, recipient: &'a Recipient) -> BoxFuture<'a, Result<(), OutletError>> {
        Box::pin(async move { self.0.close(recipient.id.as_str()).map_err(outlet_error) })
    }
}

fn outlet_error(error: gateway::PostError) -> OutletError {
    match error {
        gateway::PostError::Gone => OutletError::Gone,
        gateway::PostError::Busy => OutletError::Busy,
        gateway::PostError::TooLarge => OutletError::TooLarge,
        gateway::PostError::NotText | gateway::PostError::Injected => {
            OutletError::Failed(error.into())
        }
    }
}

/// Functions behind Lambda's `Invoke`: those of AWS, `cargo lambda watch`, `sam local start-lambda`,
/// or any other server that speaks its protocol.
#[derive(Debug)]
pub(crate) struct LambdaFunctions(pub(crate) Lambda);

impl Functions for LambdaFunctions {
    fn invoke<'a>(
        &'a self,
        function: &'a str,
        event: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, FunctionError>> {
        Box::pin(async move {
            self.0.invoke(function, event).await.map_err(|error| match error {
                // Lambda reports a function that has run out of time like this (developer guide,
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
