//! Handing frames to the function `push`.

use futures_util::future::BoxFuture;
use serde::{Deserialize, Serialize};

use crate::{chain::BoxError, connection::ConnectionId, frame::Frame, shard::Shard, topic::Topic};

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
