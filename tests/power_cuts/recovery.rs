//! What a poller finds after a power cut, and how it continues.

use std::{collections::BTreeMap, path::Path, time::Duration};

use aws::tables::Tables;
use domain::{clock::Clock, entry::Entry, topic::Topic};
use dynamo::{Durability, Engine, Storage};
use jiff::Timestamp;
use poller::{
    lanes::Lanes,
    leadership::Leadership,
    numbering::{Numbering, Options},
    outgoing::Outgoing,
};
use rusqlite::Connection;
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use crate::appends;

/// How many topics are continued after a power cut.
const CONTINUED: usize = 2;

/// The event that is published after the power cut.
const SUCCESSOR: &str = r#"{"text":"after the power cut"}"#;

/// The highest number of each topic whose append was acknowledged.
#[derive(Default)]
pub(crate) struct Acknowledged(BTreeMap<Topic, u64>);

impl Acknowledged {
    /// Adds a line of the writer: the topic, and the first and the last number of an entry.
    pub(crate) fn add(&mut self, line: &str) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [topic, first, last] = words[..] else { panic!("not a line of the writer: {line}") };
        let newest = self.0.entry(Topic::parse(topic).unwrap()).or_default();
        assert_eq!(first, (*newest + 1).to_string(), "the writer has left out numbers");
        *newest = last.parse().unwrap();
    }

    fn newest(&self, topic: &Topic) -> u64 {
        self.0.get(topic).copied().unwrap_or(0)
    }
}

/// What is wrong after power cuts.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Acknowledged events that the log does not have.
    pub(crate) missing: u64,
    /// Numbers of acknowledged events that another event has got.
    pub(crate) used_twice: u64,
    /// What is not as it was written.
    pub(crate) damaged: Vec<String>,
}

impl Findings {
    /// Adds what is wrong after one cut.
    pub(crate) fn add(&mut self, moment: usize, other: Self) {
        self.missing += other.missing;
        self.used_twice += other.used_twice;
        self.damaged.extend(other.damaged.into_iter().map(|it| format!("cut {moment}: {it}")));
    }
}

/// Opens the database in a folder and continues its topics, as a poller does after a power cut.
///
/// It reads all topics, and continues some of them: another part after each cut.
pub(crate) fn check(folder: &Path, acknowledged: &Acknowledged, cut: usize) -> Findings {
    let part = cut % (appends::topics().count() / CONTINUED);
    let mut findings = Findings::default();
    match Storage::open_with(Some(folder), Durability::Fast) {
        Err(error) => {
            findings.damaged.push(format!("cannot open: {error:?}"));
            return findings;
        }
        Ok(storage) => tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
            .block_on(continue_topics(storage, acknowledged, part, &mut findings)),
    }
    let database = Connection::open(folder.join("headwater.db")).unwrap();
    let integrity: String =
        database.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    if integrity != "ok" {
        findings.damaged.push(integrity);
    }
    findings
}

async fn continue_topics(
    storage: Storage,
    acknowledged: &Acknowledged,
    part: usize,
    findings: &mut Findings,
) {
    let tables = appends::tables(&Engine::inline(storage));
    tables.create_missing().await.unwrap();
    let mut ends = BTreeMap::new();
    for topic in appends::topics() {
        let mut end = 0;
        for (seq, text) in events(&tables, &topic, 1).await {
            end += 1;
            if seq != end || text != appends::event(&topic, seq) {
                findings.damaged.push(format!("{topic} has another event at {end}"));
            }
        }
        findings.missing += acknowledged.newest(&topic).saturating_sub(end);
        ends.insert(topic, end);
    }
    let continued: Vec<Topic> = appends::topics().skip(part * CONTINUED).take(CONTINUED).collect();
    for topic in &continued {
        let reserved = tables.control.reservation(topic).await.unwrap();
        if ends[topic] > reserved.map_or(0, |it| it.last) {
            findings.damaged.push(format!("{topic} has more events than reserved numbers"));
        }
    }
    publish(&tables, &continued).await;
    for topic in continued {
        let end = ends[&topic];
        let after = events(&tables, &topic, end + 1).await;
        if after != [(end + 1, SUCCESSOR.to_owned())] {
            findings.damaged.push(format!("{topic} was continued with {after:?}"));
        }
        for (seq, _) in after {
            findings.used_twice += u64::from(seq <= acknowledged.newest(&topic));
        }
    }
}

/// Publishes an event on each of the topics with a poller's numbering.
async fn publish(tables: &Tables, topics: &[Topic]) {
    let Tables { log, control, .. } = tables;
    control.clear_leases().await.unwrap();
    let term = Duration::from_mins(1);
    let lease = control.acquire(appends::FAMILY, "successor", term, Timestamp::now()).await;
    let leadership = Leadership::default();
    let clock = Clock::new(Timestamp::now);
    let options = Options { flush: Duration::from_millis(20), memory_bytes: 1_000_000 };
    let numbering =
        Numbering::new(log.clone(), control.clone(), leadership.clone(), clock.clone(), options);
    numbering.lead(lease.unwrap().unwrap(), Instant::now());
    for topic in topics {
        numbering.publish(topic, Outgoing::plain(SUCCESSOR));
    }
    let shutdown = CancellationToken::new();
    shutdown.cancel();
    // It ends when nothing is pending.
    let run = numbering.run(Lanes::new([], leadership, 1, clock), shutdown);
    time::timeout(term, run).await.unwrap();
}

/// Returns the events of a topic from a number on, with their numbers.
async fn events(tables: &Tables, topic: &Topic, from: u64) -> Vec<(u64, String)> {
    let read = tables.log.read(topic, from, u64::MAX, usize::MAX, Timestamp::now());
    let events = read.await.unwrap().into_iter().flat_map(|entry| match entry {
        Entry::Frame(frame) => frame.events(),
        Entry::Lost { seq, .. } => vec![(seq, "lost".into())],
    });
    events.map(|(seq, text)| (seq, String::from_utf8(text.to_vec()).unwrap())).collect()
}
