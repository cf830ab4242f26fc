//! The port through which the poller invokes `push`: jobs, reports and the invocation itself.
//!
//! `push` is a function of its job and the tables. All delivery state that has to survive is in the
//! log, and in the lane that makes the jobs: the lane goes on from the report, whichever environment
//! runs the next job. A job whose report was lost is repeated, which can cause duplicates but no
//! holes.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{chain::BoxError, connection::ConnectionId, entry::Entry, shard::Shard, topic::Topic};

/// The connections of one shard, and what they have to be sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The shard whose connections are served.
    pub shard: Shard,
    /// The version of the rules that the caller knows. `push` must not use an older one.
    #[serde(default)]
    pub rules: u64,
    /// How long the job may take, in milliseconds. `push` reports how far it came before that.
    pub time_ms: u64,
    /// How many messages `push` may post.
    pub posts: u64,
    /// The topics that have to be sent, or whose position the connections that are behind need.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stretches: Vec<Stretch>,
    /// The connections that are behind the others. They are not part of the fan-out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
    /// What the caller knows of the connections that changed recently.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<Changed>,
}

/// What the caller of `push` knows of a connection that changed recently.
///
/// The index through which both read the connections lags, and it can show a change to either of them
/// first. `push` must not use an older version. It must not serve a newer subscription either, because
/// the caller does not know yet where that starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The connection.
    pub connection: ConnectionId,
    /// The version of its item.
    pub version: u64,
    /// The topics that it has joined, and when each subscription went live.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub joined: BTreeMap<Topic, Timestamp>,
}

/// How long jobs name a change of a connection. It is longer than the index lags, and longer than an
/// environment of `push` uses its view of a shard without reading what has changed.
pub const NAME_CHANGES_FOR: Duration = Duration::from_secs(15);

/// The events of one topic that a job sends to all its subscribers in the shard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// The topic.
    pub topic: Topic,
    /// The number up to which the subscribers have been served, except those that are behind.
    pub prev: u64,
    /// The last number to send. It is `prev` if there is nothing to send.
    pub to: u64,
    /// Entries of the log between `prev` and `to`, in order. `push` reads those that are missing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub entries: Vec<Entry>,
}

/// The position of a connection that is behind the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behind {
    /// The connection.
    pub connection: ConnectionId,
    /// The next number to send, for each topic on which it is behind. On its other topics, it has
    /// been sent the same events as the other subscribers.
    pub next: BTreeMap<Topic, u64>,
    /// Why it is behind.
    #[serde(default, skip_serializing_if = "Lag::is_none")]
    pub lag: Lag,
    /// Whether `push` leaves it alone in this job.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub waits: bool,
}

/// Why a connection is behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lag {
    /// It joined, or a job ended before its turn. It is sent every event.
    #[default]
    None,
    /// It did not accept a message. Of conflating topics, it is sent the newest event only.
    Slow,
    /// It is also behind by more than [`MAX_LAG_BYTES`]. It is sent a gap and continues at the head.
    Overflowed,
}

/// How far a slow connection can be behind on a topic until it is sent a `gap` instead of the
/// events, in bytes of events.
pub const MAX_LAG_BYTES: usize = 256 * 1024;

/// The result of a job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// By topic, the number up to which all connections that are not in [`Self::behind`] have been
    /// served.
    #[serde(default)]
    pub served: BTreeMap<Topic, u64>,
    /// The connections that are behind after the job. It replaces [`Job::behind`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub behind: Vec<Behind>,
    /// The connections that were found to be closed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<ConnectionId>,
    /// The number of messages that were posted, accepted or not.
    pub posts: u64,
    /// The number of posts that were refused because of a quota, or because a connection that was
    /// not behind is too slow.
    pub refused: u64,
    /// The number of subscriptions and connections that the rules or an expired token end, and that
    /// could not be ended yet.
    #[serde(default)]
    pub unfinished: u64,
}

impl Lag {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "`serde` passes a reference")]
    fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl Job {
    /// Returns how long the job may take.
    pub fn time(&self) -> Duration {
        Duration::from_millis(self.time_ms)
    }
}

/// Why an invocation of `push` failed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// There are too many concurrent invocations; the same job may succeed later.
    #[error("invocation of push was throttled")]
    Throttled(#[source] BoxError),
    /// The function failed and has ended.
    #[error("push failed")]
    Failed(#[source] BoxError),
    /// There was no response. The function may still be running, until the time of the job is over.
    #[error("push did not respond")]
    NoResponse(#[source] BoxError),
}

/// Invokes `push` and waits for it.
///
/// There are two implementations: Lambda's `Invoke`, and a call in the same process.
pub trait Push: Send + Sync + 'static {
    /// Runs a job. A failed job may have been done in part, and can be repeated.
    fn push(&self, job: Job) -> BoxFuture<'_, Result<Report, PushError>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_has_the_documented_form() {
        let topic = Topic::parse("mastodon/public").expect("a topic");
        let next = BTreeMap::from([(topic, 7)]);
        let behind = |lag| Behind {
            connection: ConnectionId::new("c"),
            next: next.clone(),
            lag,
            waits: false,
        };
        let job = Job {
            shard: 3,
            rules: 0,
            time_ms: 1_500,
            posts: 2,
            stretches: vec![],
            behind: vec![behind(Lag::None), behind(Lag::Slow)],
            changed: vec![],
        };
        assert_eq!(job.time(), Duration::from_millis(1_500));
        let text = serde_json::to_string(&job).expect("JSON");
        let expected = concat!(
            r#"{"shard":3,"rules":0,"time_ms":1500,"posts":2,"behind":["#,
            r#"{"connection":"c","next":{"mastodon/public":7}},"#,
            r#"{"connection":"c","next":{"mastodon/public":7},"lag":"slow"}]}"#
        );
        assert_eq!(text, expected);
        assert_eq!(serde_json::from_str::<Job>(&text).expect("a job"), job);
    }
}
