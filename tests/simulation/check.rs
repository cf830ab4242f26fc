//! What must be true when the faults are over.

use std::collections::BTreeMap;

use aws::tables::Tables;
use domain::{entry::Entry, topic::Topic};
use jiff::Timestamp;
use serde_json::Value;

use crate::{client::Position, upstream::Upstream};

/// Returns what is not as it must be.
pub(crate) async fn check(
    tables: &Tables,
    upstream: &Upstream,
    topics: &[Topic],
    positions: &BTreeMap<(String, Topic), Position>,
    now: Timestamp,
) -> Vec<String> {
    let mut violations = Vec::new();
    for topic in topics {
        let head = check_log(tables, upstream, topic, now, &mut violations).await;
        for ((client, of), position) in positions {
            if of == topic && position.seq != Some(head) {
                violations.push(format!(
                    "{client} is mute on {topic}: it has {:?} of {head}\n  {}",
                    position.seq,
                    Vec::from(position.recent.clone()).join("\n  ")
                ));
            }
        }
    }
    violations
}

/// Checks the log of a topic: its numbers are contiguous, and each event is in it once or reported as
/// lost. Returns its last number.
async fn check_log(
    tables: &Tables,
    upstream: &Upstream,
    topic: &Topic,
    now: Timestamp,
    violations: &mut Vec<String>,
) -> u64 {
    let mut next = 1;
    let mut ids: Vec<u64> = Vec::new();
    let mut lost = 0;
    loop {
        let entries = tables.log.read(topic, next, u64::MAX, usize::MAX, now).await.unwrap();
        if entries.is_empty() {
            break;
        }
        for entry in entries {
            if entry.seq() != next {
                violations.push(format!("{topic} has {} where {next} must be", entry.seq()));
            }
            next = entry.last() + 1;
            match entry {
                Entry::Lost { seq, last, .. } => lost += last - seq + 1,
                Entry::Frame(frame) => {
                    for (_, event) in frame.events() {
                        let event: Value = serde_json::from_slice(&event).unwrap();
                        ids.push(event["id"].as_u64().unwrap());
                    }
                }
            }
        }
    }
    let newest = upstream.newest(topic);
    if topic.kind().conflates() {
        if ids.last() != Some(&newest) && newest > 0 {
            violations.push(format!("{topic} ends with {:?}, not with {newest}", ids.last()));
        }
        return next - 1;
    }
    let mut sorted = ids.clone();
    sorted.sort_unstable();
    sorted.dedup();
    if sorted.len() < ids.len() {
        violations.push(format!("{topic}: {} events twice", ids.len() - sorted.len()));
    }
    let missing = newest - sorted.len() as u64;
    if missing > lost {
        violations.push(format!("{topic}: {missing} of {newest} events missing, {lost} reported"));
    }
    if ids.iter().zip(ids.iter().skip(1)).any(|(one, next)| one >= next) {
        violations.push(format!("{topic}: events are not in order"));
    }
    next - 1
}
