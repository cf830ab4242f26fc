//! The port through which frames are passed to the function `push`.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{chain::BoxError, connection::ConnectionId, frame::Frame, shard::Shard, topic::Topic};

/// The work of one invocation of `push`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The shard whose connections are served.
    pub shard: Shard,
    /// Connections that the caller has just discovered. From this job on, the caller sends the frames of all
    /// their topics. Earlier frames are in the log.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub joined: Vec<ConnectionId>,
    /// Numbers whose events were dropped before they could be written.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<Lost>,
    /// The version of the rules that the caller knows. `push` must not use an older one.
    #[serde(default)]
    pub rules: u64,
    /// The frames to send. All of them are in the log, and those of a topic are in order.
    pub frames: Vec<Frame>,
}

/// Numbers of a topic that have no events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// The topic.
    pub topic: Topic,
    /// The first number.
    pub from: u64,
    /// The last number.
    pub to: u64,
}

/// The result of an invocation of `push`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The number of messages that gateways accepted.
    pub delivered: u64,
    /// The number of connections with pending frames. Invoke `push` again soon, even without frames.
    pub waiting: u64,
    /// The number of connections that were found to be closed.
    pub gone: u64,
}

/// Why an invocation of `push` failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// There are too many concurrent invocations; the same job may succeed later.
    #[error("invocation of push was throttled")]
    Throttled(#[source] BoxError),
    /// The function failed, or could not be reached.
    #[error("invocation of push failed")]
    Failed(#[source] BoxError),
}

/// Invokes `push` and waits for it.
///
/// There are two implementations: Lambda's `Invoke`, and a call in the same process.
pub trait Push: Send + Sync + 'static {
    /// Runs a job. A failed job may have been done in part; the caller can repeat it.
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>>;
}
