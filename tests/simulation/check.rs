//! What must be true when the faults are over.

use std::{collections::BTreeMap, time::Duration};

use aws::tables::Tables;
use domain::{entry::Entry, topic::Topic};
use jiff::Timestamp;
use tokio::time::{self, Instant};

use crate::{
    client::Position,
    expiry::Expired,
    trace::Trace,
    upstream::{self, Logged, Upstream},
};

/// How often the log is searched for deleted posts.
const SEARCH_EVERY: Duration = Duration::from_secs(20);

/// Waits until no deleted post is in the log, but not longer than `most`.
pub(crate) async fn wait_for_deletes(
    tables: &Tables,
    upstream: &Upstream,
    topics: &[Topic],
    most: Duration,
) {
    let until = Instant::now() + most;
    while Instant::now() < until {
        let mut is_done = true;
        for topic in topics {
            let entries = retained(tables, topic).await;
            is_done &= check_deletes(topic, &entries, upstream).is_empty();
        }
        if is_done {
            return;
        }
        time::sleep(SEARCH_EVERY).await;
    }
}

/// Reads what the log has of a topic, expired entries too.
async fn retained(tables: &Tables, topic: &Topic) -> Vec<Entry> {
    tables.log.read(topic, 1, u64::MAX, usize::MAX, Timestamp::UNIX_EPOCH).await.unwrap()
}

/// Reports what is not as it must be. Only the last event of topics that are read `on_demand` must be there.
pub(crate) async fn check(
    tables: &Tables,
    upstream: &Upstream,
    positions: &BTreeMap<(String, Topic), Position>,
    topics: &[Topic],
    on_demand: &[&str],
    expired: &Expired,
    trace: &Trace,
) {
    for topic in topics {
        let retained = retained(tables, topic).await;
        let entries = expired.restore(topic, &retained);
        let mut violations = check_numbers(&entries);
        let has_subscribers = positions.keys().any(|(_, of)| of == topic);
        let scope = match on_demand.contains(&topic.as_str()) {
            false => Scope::All,
            true if has_subscribers => Scope::Last,
            true => Scope::None,
        };
        violations.extend(match topic.source() {
            "coinbase" => {
                (0..lost(&entries)).for_each(|_| trace.count("upstreams: trades reported as lost"));
                check_exchange(topic, &entries, upstream, tables.log.retention(), scope)
            }
            "mastodon" => check_posts(topic, &entries, upstream, tables.log.retention(), scope),
            _ => Vec::new(),
        });
        violations.extend(check_deletes(topic, &retained, upstream));
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

/// Which events of a topic must be in the log.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scope {
    All,
    Last,
    None,
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

/// Returns how many events of a topic were reported as lost.
fn lost(entries: &[Entry]) -> u64 {
    let lost = entries.iter().map(|entry| match entry {
        Entry::Frame(_) => 0,
        Entry::Lost { seq, last, .. } => last - seq + 1,
    });
    lost.sum()
}

/// Checks that each trade of a topic is in the log once or reported as lost, in order, and that the last ticker
/// is the newest. Returns what is wrong.
fn check_exchange(
    topic: &Topic,
    entries: &[Entry],
    upstream: &Upstream,
    retention: Duration,
    scope: Scope,
) -> Vec<String> {
    let newest = upstream.newest(topic);
    let logged = upstream::logged(entries);
    let numbers: Vec<(Timestamp, u64)> = logged
        .into_iter()
        .map(|(at, event)| match event {
            Logged::Number(number) => (at, number),
            other => panic!("{other:?} is on {topic}"),
        })
        .collect();
    let last = numbers.last().map_or(0, |(_, number)| *number);
    let mut violations = Vec::new();
    if (topic.kind().conflates() || scope == Scope::Last) && last != newest {
        violations.push(format!("the last is {last}, not {newest}"));
    }
    if topic.kind().conflates() {
        return violations;
    }
    let mut missing = newest.saturating_sub(last);
    for ((before, one), (at, next)) in numbers.iter().zip(numbers.iter().skip(1)) {
        if one >= next {
            violations.push(format!("{next} comes after {one}"));
        }
        // A source that finds no event in the log begins with the next one.
        if *at < *before + retention {
            missing += next.saturating_sub(one + 1);
        }
    }
    let lost = lost(entries);
    if missing > lost && scope == Scope::All {
        violations.push(format!("{missing} are missing, {lost} are reported as lost"));
    }
    let forgotten = upstream.forgotten(topic).len() as u64;
    if lost > forgotten {
        violations
            .push(format!("{lost} are reported as lost, and the exchange has all but {forgotten}"));
    }
    violations
}

/// Checks that each post of a topic is in the log once, unless it was deleted. Returns what is wrong.
fn check_posts(
    topic: &Topic,
    entries: &[Entry],
    upstream: &Upstream,
    retention: Duration,
    scope: Scope,
) -> Vec<String> {
    let mut violations = Vec::new();
    let mut logged: BTreeMap<u64, Timestamp> = BTreeMap::new();
    let mut deletes: BTreeMap<u64, u32> = BTreeMap::new();
    for (at, event) in upstream::logged(entries) {
        match event {
            Logged::Posted(number) => {
                // When a post has expired, nobody knows that it was there.
                if let Some(before) = logged.insert(number, at)
                    && at < before + retention
                {
                    violations.push(format!("post {number} is in the log twice"));
                }
            }
            // It takes the place of the post, and has a number of its own. A leader publishes it again if the one
            // before has not noted that it is done.
            Logged::Deleted(number) => *deletes.entry(number).or_default() += 1,
            Logged::Number(number) => panic!("{number} is on {topic}"),
        }
    }
    let posts = upstream.posts(topic);
    let mut expected: Vec<u64> = posts.keys().copied().collect();
    let from = match scope {
        Scope::All => 0,
        Scope::Last => expected.len().saturating_sub(1),
        Scope::None => expected.len(),
    };
    expected.drain(..from);
    let is_absent = |number: &u64| !posts[number] && !logged.contains_key(number);
    let absent: Vec<u64> = expected.into_iter().filter(is_absent).collect();
    let lost = lost(entries);
    if absent.len() as u64 > lost {
        violations.push(format!("posts {absent:?} are missing, {lost} are reported as lost"));
    }
    for (number, count) in deletes {
        if count > 4 {
            violations.push(format!("the delete of post {number} is in the log {count} times"));
        }
        if posts.get(&number) != Some(&true) {
            violations.push(format!("post {number} was not deleted, and the log says so"));
        }
    }
    violations
}

/// Checks that deleted posts are not in the log. Returns what is wrong.
fn check_deletes(topic: &Topic, entries: &[Entry], upstream: &Upstream) -> Vec<String> {
    let frames = entries.iter().filter_map(|entry| match entry {
        Entry::Frame(frame) => Some(frame.events()),
        Entry::Lost { .. } => None,
    });
    let events = frames.flatten().map(|(_, event)| String::from_utf8_lossy(&event).into_owned());
    let events: String = events.collect();
    let deleted = upstream.posts(topic).into_iter().filter(|(_, is_deleted)| *is_deleted);
    let found = deleted.filter(|(number, _)| events.contains(&upstream::text(*number)));
    let found = found.map(|(post, _)| post);
    found.map(|post| format!("post {post} was deleted, and its text is in the log")).collect()
}
