//! The health of a poller, for the container's health check and for `CloudWatch`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use tokio::sync::watch;

/// How often a poller checks its health.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Age at which the newest look is stale, which means that the poller hangs.
const STALE_AFTER: Duration = Duration::from_secs(20);

/// How often metrics are written. `CloudWatch` aggregates them by the minute.
pub const METRICS_EVERY: Duration = Duration::from_mins(1);

/// What a poller did since it started.
#[derive(Debug, Default)]
pub struct Counters {
    frames: AtomicU64,
    events: AtomicU64,
    push_failures: AtomicU64,
    /// Milliseconds since 1970; 0 before the first frame.
    newest_frame: AtomicU64,
}

/// The health of a poller at one time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Look {
    /// The time.
    pub at: Timestamp,
    /// The families of sources that it leads, such as `coinbase`; empty on a standby.
    pub leads: Vec<String>,
    /// Whether the database responds.
    pub database: bool,
    /// Number of its sources that are down.
    pub sources_down: usize,
    /// Whether any topic of its sources is wanted.
    pub wanted: bool,
    /// Number of frames appended to the log since it started.
    pub frames: u64,
    /// Number of events in these frames.
    pub events: u64,
    /// Number of failed invocations of `push` since it started.
    pub push_failures: u64,
    /// When the newest frame was appended.
    pub newest_frame: Option<Timestamp>,
}

/// The newest look at the health of a poller.
pub type Looks = watch::Receiver<Option<Look>>;

impl Counters {
    /// Counts frames that were appended to the log.
    pub(crate) fn appended(&self, frames: u64, events: u64, now: Timestamp) {
        self.frames.fetch_add(frames, Ordering::Relaxed);
        self.events.fetch_add(events, Ordering::Relaxed);
        let now = u64::try_from(now.as_millisecond()).unwrap_or_default();
        self.newest_frame.fetch_max(now, Ordering::Relaxed);
    }

    /// Counts an invocation of `push` that failed.
    pub(crate) fn push_failed(&self) {
        self.push_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn look(&self, at: Timestamp) -> Look {
        let newest = i64::try_from(self.newest_frame.load(Ordering::Relaxed)).unwrap_or_default();
        Look {
            at,
            leads: Vec::new(),
            database: false,
            sources_down: 0,
            wanted: false,
            frames: self.frames.load(Ordering::Relaxed),
            events: self.events.load(Ordering::Relaxed),
            push_failures: self.push_failures.load(Ordering::Relaxed),
            newest_frame: Timestamp::from_millisecond(newest).ok().filter(|_| newest > 0),
        }
    }
}

impl Look {
    /// Returns whether the poller works at `now`: it looks after itself. A new process would not help
    /// against a database that does not respond, and would lose the events in memory.
    pub fn is_healthy(&self, now: Timestamp) -> bool {
        now.duration_since(self.at).unsigned_abs() < STALE_AFTER
    }

    /// Returns a log line in `CloudWatch`'s embedded metric format, with the changes since `before`.
    /// The metrics are in the namespace `Headwater` and have the dimension `Deployment`, which is the
    /// prefix of the tables.
    pub fn to_metrics(&self, before: Option<&Self>, deployment: &str) -> String {
        let since = |count: fn(&Self) -> u64| count(self) - before.map_or(0, count);
        let mut names = vec![
            json!({"Name": "FamiliesLed", "Unit": "Count"}),
            json!({"Name": "SourcesDown", "Unit": "Count"}),
            json!({"Name": "Frames", "Unit": "Count"}),
            json!({"Name": "Events", "Unit": "Count"}),
            json!({"Name": "PushFailures", "Unit": "Count"}),
            json!({"Name": "DatabaseDown", "Unit": "Count"}),
        ];
        // Without wanted topics, or on a standby, no frame is expected.
        let newest = self.newest_frame.filter(|_| self.wanted && !self.leads.is_empty());
        let age = newest.map(|newest| self.at.duration_since(newest).as_secs().max(0));
        if age.is_some() {
            names.push(json!({"Name": "NewestFrameAge", "Unit": "Seconds"}));
        }
        let line = json!({
            "_aws": {
                "Timestamp": self.at.as_millisecond(),
                "CloudWatchMetrics": [{
                    "Namespace": "Headwater",
                    "Dimensions": [["Deployment"]],
                    "Metrics": names,
                }],
            },
            "Deployment": deployment,
            "FamiliesLed": self.leads.len(),
            "SourcesDown": self.sources_down,
            "Frames": since(|look| look.frames),
            "Events": since(|look| look.events),
            "PushFailures": since(|look| look.push_failures),
            "DatabaseDown": u8::from(!self.database),
            "NewestFrameAge": age,
        });
        line.to_string()
    }
}

#[cfg(test)]
mod tests {
    use jiff::ToSpan as _;
    use serde_json::Value;

    use super::*;

    fn now() -> Timestamp {
        "2026-11-22T10:00:00Z".parse().expect("a time")
    }

    #[test]
    fn health_needs_a_recent_look_and_no_database() {
        let look = Look { database: true, ..Counters::default().look(now()) };
        assert!(look.is_healthy(now() + 19.seconds()));
        assert!(!look.is_healthy(now() + 20.seconds()), "it hangs");
        assert!(Look { database: false, ..look }.is_healthy(now()));
    }

    #[test]
    fn metrics_count_what_happened_since_the_last_line() {
        let counters = Counters::default();
        counters.appended(2, 30, now());
        let leads = vec!["coinbase".to_owned()];
        let first = Look { wanted: true, leads, ..counters.look(now()) };
        counters.appended(1, 5, now() + 10.seconds());
        counters.push_failed();
        let second = Look {
            at: now() + 70.seconds(),
            sources_down: 1,
            ..Look { wanted: true, leads: first.leads.clone(), ..counters.look(now()) }
        };
        let line: Value =
            serde_json::from_str(&second.to_metrics(Some(&first), "main-")).expect("JSON");
        for (name, expected) in [
            ("FamiliesLed", json!(1)),
            ("SourcesDown", json!(1)),
            ("Frames", json!(1)),
            ("Events", json!(5)),
            ("PushFailures", json!(1)),
            ("DatabaseDown", json!(1)),
            ("NewestFrameAge", json!(60)),
            ("Deployment", json!("main-")),
        ] {
            assert_eq!(line[name], expected, "case: {name}");
        }
        let names = line.pointer("/_aws/CloudWatchMetrics/0/Metrics").expect("names");
        assert_eq!(names.as_array().map(Vec::len), Some(7));
        let standby = Look { leads: vec![], ..second };
        assert!(!standby.to_metrics(None, "main-").contains(r#""Name":"NewestFrameAge""#));
    }
}
