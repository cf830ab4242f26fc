//! One invocation of a function, with a time limit.

use std::{error::Error, fmt::Write, time::Duration};

use bytes::Bytes;
use tokio::time;
use tracing::warn;

use crate::{
    addresses::Address,
    functions::{FunctionError, Functions},
};

/// Why an invocation returned no response.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InvocationError {
    #[error(transparent)]
    Function(#[from] FunctionError),
    #[error("function did not respond within the integration timeout")]
    TimedOut,
}

/// Invokes a function, and logs a failure. If it is for a client of an address, it first waits until the invocations
/// for the others have left room.
pub(crate) async fn invoke(
    address: Option<&Address>,
    functions: &dyn Functions,
    function: &str,
    event: Bytes,
    limit: Duration,
) -> Result<Bytes, InvocationError> {
    let _permit = match address {
        Some(address) => address.invocation().await,
        None => None,
    };
    let result = match time::timeout(limit, functions.invoke(function, event)).await {
        Ok(result) => result.map_err(InvocationError::from),
        Err(_) => Err(InvocationError::TimedOut),
    };
    if let Err(error) = &result {
        warn!(function.name = function, error = chain(error), "invocation failed");
    }
    result
}

/// Returns an error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let _ = write!(text, ": {cause}");
        next = cause.source();
    }
    text
}
