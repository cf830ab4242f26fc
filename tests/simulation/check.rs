//! What must be true when the faults are over.

use std::collections::BTreeMap;

use aws::tables::Tables;
use domain::{entry::Entry, topic::Topic};
use jiff::Timestamp;

use crate::{
    client::Position,
    trace::Trace,
    upstream::{self, Upstream},
};

/// Reports what is not as it must be.
pub(crate) async fn check(
    tables: &Tables,
    upstream: &Upstream,
    positions: &BTreeMap<(String, Topic), Position>,
    topics: &[Topic],
    trace: &Trace,
) {
    for topic in topics {
        // Expired entries count too.
        let now = Timestamp::UNIX_EPOCH;
        let entries = tables.log.read(topic, 1, u64::MAX, usize::MAX, now).await.unwrap();
        for violation in check_log(topic, &entries, upstream) {
            trace.violation(&format!("{topic}: {violation}"));
        }
        let head = entries.last().map_or(0, Entry::last);
        for ((client, of), position) in positions {
            if of == topic && position.seq != Some(head) {
                trace.violation(&format!(
                    "{client} is mute on {topic}: it has {:?} of {head}\n  {}",
                    position.seq,
                    Vec::from(position.recent.clone()).join("\n  ")
                ));
            }
        }
    }
}

/// Checks the log of a topic: its numbers are contiguous, each event is in it once or reported as lost, and
/// deleted posts are gone. Returns what is wrong.
fn check_log(topic: &Topic, entries: &[Entry], upstream: &Upstream) -> Vec<String> {
    let mut violations = Vec::new();
    let mut next = 1;
    let mut lost = 0;
    for entry in entries {
        if entry.seq() != next {
            violations.push(format!("{} is where {next} must be", entry.seq()));
        }
        next = entry.last() + 1;
        if let Entry::Lost { seq, last, .. } = entry {
            lost += last - seq + 1;
        }
    }
    let newest = upstream.newest(topic);
    let numbers = upstream::numbers(entries);
    if topic.kind().conflates() {
        if numbers.last() != Some(&newest) && newest > 0 {
            violations.push(format!("the last is {:?}, not {newest}", numbers.last()));
        }
        return violations;
    }
    if let Some((one, next)) = numbers.iter().zip(numbers.iter().skip(1)).find(|(a, b)| a >= b) {
        violations.push(format!("{next} comes after {one}"));
    }
    let missing = newest.saturating_sub(numbers.len() as u64);
    if missing > lost {
        violations.push(format!("{missing} of {newest} are missing, {lost} are reported as lost"));
    }
    let frames = entries.iter().filter_map(|entry| match entry {
        Entry::Frame(frame) => Some(frame.events()),
        Entry::Lost { .. } => None,
    });
    let events = frames.flatten().map(|(_, event)| String::from_utf8_lossy(&event).into_owned());
    let events: String = events.collect();
    for post in upstream.deleted(topic) {
        if events.contains(&upstream::text(post)) {
            violations.push(format!("post {post} was deleted, and its text is in the log"));
        }
    }
    violations
}
