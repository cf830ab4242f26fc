//! Invoking the function `push` through Lambda.

use domain::push::{Job, Push, PushError, Report};
use futures_util::future::BoxFuture;

use crate::invoke::{InvokeError, Lambda};

/// `push` as a Lambda function.
#[derive(Clone, Debug)]
pub struct LambdaPush {
    lambda: Lambda,
    function: String,
}

impl LambdaPush {
    /// The function with this name or ARN.
    pub(crate) fn new(lambda: Lambda, function: String) -> Self {
        Self { lambda, function }
    }

    async fn invoke(&self, job: &Job) -> Result<Report, PushError> {
        let event = serde_json::to_vec(job).map_err(|error| PushError::Failed(error.into()))?;
        let report =
            self.lambda.invoke(&self.function, event).await.map_err(|error| match error {
                InvokeError::Throttled { .. } => PushError::Throttled(error.into()),
                InvokeError::NotFound { .. } | InvokeError::Function { .. } => {
                    PushError::Failed(error.into())
                }
                InvokeError::Unavailable { .. } => PushError::NoResponse(error.into()),
            })?;
        serde_json::from_slice(&report).map_err(|error| PushError::Failed(error.into()))
    }
}

impl Push for LambdaPush {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move { self.invoke(&job).await })
    }
}
