//! The interface to the functions behind the gateway.

use std::error::Error;

use bytes::Bytes;
use futures_util::future::BoxFuture;

/// The functions behind the gateway.
pub trait Functions: Send + Sync + 'static {
    /// Invokes `function` with a JSON event and returns its JSON response.
    ///
    /// The gateway drops the future when the integration timeout passes.
    fn invoke<'a>(
        &'a self,
        function: &'a str,
        event: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, FunctionError>>;
}

/// Why a function returned no response.
#[derive(Debug, thiserror::Error)]
pub enum FunctionError {
    /// The function itself failed, which Lambda reports with the header `X-Amz-Function-Error`.
    #[error("function failed with {error_type}: {message}")]
    Handled {
        /// `errorType` of the function's error.
        error_type: String,
        /// `errorMessage` of the function's error.
        message: String,
    },
    /// The function exceeded its own time limit.
    #[error("function timed out")]
    Timeout,
    /// The function could not be invoked: it is missing, not permitted, or not reachable.
    #[error("function is not available")]
    Unavailable(#[source] Box<dyn Error + Send + Sync>),
}
