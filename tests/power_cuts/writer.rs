//! The program that is recorded: it appends to the log as a leading poller does, and notes each append that is
//! acknowledged.

#![allow(clippy::unwrap_used, missing_docs)]

mod appends;

use std::{fs::File, io::Write as _, path::Path, sync::Arc, time::Duration};

use aws::{
    control::{lanes::LaneNote, leases::Lease},
    log::Fence,
    tables::Tables,
};
use domain::{entry::Entry, frame::Frame, shard::Shard, topic::Topic};
use dynamo::{Engine, Storage};
use jiff::Timestamp;

use crate::appends::{ACKNOWLEDGED, DURABILITY, FAMILY, LIVES, ROOT, event, tables, topics};

/// The appends to each topic in a life.
const APPENDS: usize = 14;

/// How many numbers are reserved at a time, so that this happens now and then.
const RESERVE: u64 = 10;

/// The topics of a lane. Its note is large, so that the WAL fills soon.
const NOTED: usize = 500;

fn main() {
    let root = std::env::var_os(ROOT).unwrap();
    let root = Path::new(&root);
    let durability = std::env::var(DURABILITY).unwrap().parse().unwrap();
    let acknowledged = Arc::new(File::create(root.join(ACKNOWLEDGED)).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    for _ in 0..LIVES {
        let storage = Storage::open_with(Some(&root.join("data")), durability).unwrap();
        runtime.block_on(live(Engine::start(storage).unwrap(), acknowledged.clone()));
    }
}

/// Appends to all topics at the same time.
async fn live(engine: Engine, acknowledged: Arc<File>) {
    let tables = tables(&engine);
    tables.create_missing().await.unwrap();
    let control = &tables.control;
    let term = Duration::from_mins(10);
    let lease = control.acquire(FAMILY, "writer", term, Timestamp::now()).await.unwrap().unwrap();
    let writers: Vec<_> = (0..)
        .zip(topics())
        .map(|(shard, topic)| {
            let (tables, lease) = (tables.clone(), lease.clone());
            tokio::spawn(append(tables, lease, shard, topic, acknowledged.clone()))
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

/// Appends to a topic, and notes meanwhile how far a lane is.
async fn append(tables: Tables, lease: Lease, shard: Shard, topic: Topic, acknowledged: Arc<File>) {
    let Tables { log, control, .. } = &tables;
    let epoch = lease.epoch;
    let mut next = tables.head(&topic, Timestamp::now()).await.unwrap() + 1;
    let fence = log.fence(&topic, next, epoch, Timestamp::now()).await.unwrap();
    assert_eq!(fence, Fence::Stands);
    let mut reserved = 0;
    for round in 0..APPENDS {
        let events: Vec<String> =
            (next..).take(1 + round % 3).map(|seq| event(&topic, seq)).collect();
        let now = Timestamp::now();
        let entry = Entry::Frame(Frame::new(topic.clone(), next, now, &events));
        if entry.last() > reserved {
            reserved = entry.last() + RESERVE;
            assert!(control.reserve_in(epoch, reserved, &topic, reserved).await.unwrap());
        }
        let append = async {
            log.append_in(Some(epoch), &entry, None, now).await.unwrap();
            let line = format!("{topic} {} {}\n", entry.seq(), entry.last());
            (&*acknowledged).write_all(line.as_bytes()).unwrap();
        };
        let note = note(next);
        let (noted, ()) = tokio::join!(control.put_lane(&lease, shard, &note), append);
        assert!(noted.unwrap());
        next = entry.last() + 1;
    }
}

fn note(next: u64) -> LaneNote {
    let topics = (0..NOTED).map(|tag| Topic::mastodon_tag(&format!("tag{tag}")).unwrap());
    let sent = topics.map(|topic| (topic, next)).collect();
    LaneNote { at: Timestamp::now(), sent, behind: Vec::new() }
}
