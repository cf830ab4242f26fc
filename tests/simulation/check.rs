//! What must be true when the faults are over.

use std::collections::BTreeMap;

use aws::tables::Tables;
use domain::{entry::Entry, topic::Topic};
use jiff::Timestamp;

use crate::{
    client::Position,
    expiry::Expired,
    trace::Trace,
    upstream::{self, Upstream},
};

/// Reports what is not as it must be.
pub(crate) async fn check(
    tables: &Tables,
    upstream: &Upstream,
    positions: &BTreeMap<(String, Topic), Position>,
    topics: &[Topic],
    expired: &Expired,
    trace: &Trace,
) {
    for topic in topics {
        // Expired entries count too.
        let now = Timestamp::UNIX_EPOCH;
        let retained = tables.log.read(topic, 1, u64::MAX, usize::MAX, now).await.unwrap();
        let entries = expired.restore(topic, &retained);
        let mut violations = check_numbers(&entries);
        if *topic != Topic::system_sources() {
            violations.extend(check_events(topic, &entries, upstream));
            violations.extend(check_deletes(topic, &retained, upstream));
        }
        for violation in violations {
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

/// Checks that the numbers of a topic are contiguous. Returns what is wrong.
fn check_numbers(entries: &[Entry]) -> Vec<String> {
    let mut violations = Vec::new();
    let mut next = 1;
    for entry in entries {
        if entry.seq() != next {
            violations.push(format!("{} is where {next} must be", entry.seq()));
        }
        next = entry.last() + 1;
    }
    violations
}

/// Checks that each event of a topic is in the log once or reported as lost. Returns what is wrong.
fn check_events(topic: &Topic, entries: &[Entry], upstream: &Upstream) -> Option<String> {
    let newest = upstream.newest(topic);
    let numbers = upstream::numbers(entries);
    if topic.kind().conflates() {
        let is_newest = numbers.last() == Some(&newest) || newest == 0;
        return (!is_newest).then(|| format!("the last is {:?}, not {newest}", numbers.last()));
    }
    if let Some((one, next)) = numbers.iter().zip(numbers.iter().skip(1)).find(|(a, b)| a >= b) {
        return Some(format!("{next} comes after {one}"));
    }
    let lost = entries.iter().map(|entry| match entry {
        Entry::Frame(_) => 0,
        Entry::Lost { seq, last, .. } => last - seq + 1,
    });
    let lost: u64 = lost.sum();
    let missing = newest.saturating_sub(numbers.len() as u64);
    (missing > lost)
        .then(|| format!("{missing} of {newest} are missing, {lost} are reported as lost"))
}

/// Checks that deleted posts are not in the log. Returns what is wrong.
fn check_deletes(topic: &Topic, entries: &[Entry], upstream: &Upstream) -> Vec<String> {
    let frames = entries.iter().filter_map(|entry| match entry {
        Entry::Frame(frame) => Some(frame.events()),
        Entry::Lost { .. } => None,
    });
    let events = frames.flatten().map(|(_, event)| String::from_utf8_lossy(&event).into_owned());
    let events: String = events.collect();
    let deleted = upstream.deleted(topic).into_iter();
    let found = deleted.filter(|post| events.contains(&upstream::text(*post)));
    found.map(|post| format!("post {post} was deleted, and its text is in the log")).collect()
}
