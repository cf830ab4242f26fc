//! Handing frames to the function `push`.

use domain::{connection::ConnectionId, frame::Frame, topic::Topic};
use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{
    connections::Shard,
    error::BoxError,
    invoke::{InvokeError, Lambda},
};

/// What one invocation of `push` has to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// Whose connections.
    pub shard: Shard,
    /// Connections that the caller has just learnt of: from here on it sends frames of all their
    /// topics. What they missed before is in the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<ConnectionId>,
    /// Numbers whose events were given up before they could be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// The version of the rules that the caller knows: `push` goes by no older ones.
    #[serde(default)]
    pub rules: u64,
    /// What to send; all of it is in the log. The numbers of a topic are in order.
    pub frames: Vec<Frame>,
}

/// Numbers of a topic that have no events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The topic.
    pub topic: Topic,
    /// The first of them.
    pub from: u64,
    /// The last of them.
    pub to: u64,
}

/// What an invocation of `push` did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Messages that gateways took.
    pub delivered: u64,
    /// Connections that did not take all of theirs yet: invoke again soon, with or without frames.
    pub waiting: u64,
    /// Connections that turned out to be closed.
    pub gone: u64,
}

/// Why an invocation of `push` failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// Too many invocations at once; the same job may succeed later.
    #[error("invocation of push was throttled")]
    Throttled(#[source] BoxError),
    /// The function failed, or could not be reached.
    #[error("invocation of push failed")]
    Failed(#[source] BoxError),
}

/// Invokes `push` and waits for it.
///
/// Two implementations ship: Lambda's `Invoke`, and a call within one process.
pub trait Push: Send + Sync + 'static {
    /// Does a job. A job that failed may have been done in part; doing it again is fine.
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>>;
}

/// `push` as a Lambda function.
#[derive(Clone, Debug)]
pub struct LambdaPush {
    lambda: Lambda,
    function: String,
}

impl LambdaPush {
    /// The function with this name or ARN.
    pub fn new(lambda: Lambda, function: String) -> Self {
        Self { lambda, function }
    }

    async fn invoke(&self, job: &Job) -> Result<Report, PushError> {
        let event = serde_json::to_vec(job).map_err(|error| PushError::Failed(error.into()))?;
        let answer = self.lambda.invoke(&self.function, event).await.map_err(|error| {
            if let InvokeError::Throttled { .. } = error {
                PushError::Throttled(error.into())
            } else {
                PushError::Failed(error.into())
            }
        })?;
        serde_json::from_slice(&answer).map_err(|error| PushError::Failed(error.into()))
    }
}

impl Push for LambdaPush {
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>> {
        Box::pin(async move { self.invoke(&job).await })
    }
}
