//! Cuts the power while the embedded database writes, and checks what is then on the disk.
//!
//! A program (`writer`) appends to the log while `strace` records its writes to files and its syncs. From the recording,
//! a model of the disk makes the files that a power cut could have left: of what was not synced, any part can
//! be there. A poller's numbering then continues with these files.

#![allow(clippy::unwrap_used, missing_docs)]

mod appends;
mod disk;
mod recording;
mod recovery;

use dynamo::Durability;

use crate::{
    disk::Disk,
    recording::{Op, Recording},
    recovery::{Acknowledged, Findings},
};

/// The number of power cuts.
const CUTS: usize = 200;

/// The number of power cuts that are enough to show what the faster durability loses.
const FEW_CUTS: usize = 20;

/// Writes that are acknowledged when they are on the disk survive, and their numbers stay theirs.
#[test]
fn a_power_cut_loses_no_acknowledged_event_and_no_number_is_used_twice() {
    let Some(recording) = Recording::make(Durability::Full) else { return };
    let shared = recording.shared_commits("data/headwater.db-wal");
    assert!(shared >= FEW_CUTS, "only {shared} commits have more than one append");
    let starts = recording.starts("data/headwater.db-wal");
    assert!(starts > appends::LIVES, "the WAL is used again after a checkpoint");
    let findings = cut(&recording, CUTS);
    assert_eq!(findings, Findings::default(), "after {CUTS} power cuts");
}

/// Shows that the test above can fail, and what the faster durability costs.
#[test]
fn with_fast_durability_a_power_cut_loses_acknowledged_events() {
    let Some(recording) = Recording::make(Durability::Fast) else { return };
    let findings = cut(&recording, FEW_CUTS);
    assert!(findings.missing > 0, "{findings:?}");
    assert!(findings.used_twice > 0, "{findings:?}");
    // It loses the newest writes. It does not damage the others.
    assert_eq!(findings.damaged, Vec::<String>::new());
}

/// Cuts the power at seeded moments of a recording. Returns what was wrong with the files then.
fn cut(recording: &Recording, cuts: usize) -> Findings {
    let mut random = fastrand::Rng::with_seed(1);
    // The creation of the database is short, and gets a quarter of the cuts.
    let created = recording.ops.iter().position(|op| matches!(op, Op::Acknowledge(_))).unwrap();
    let ends = (0..cuts).map(|cut| if cut % 4 == 0 { created } else { recording.ops.len() });
    let mut moments: Vec<usize> = ends.map(|end| random.usize(..=end)).collect();
    moments.sort_unstable();
    let mut disk = Disk::default();
    let mut acknowledged = Acknowledged::default();
    let mut findings = Findings::default();
    let mut done = 0;
    for (count, moment) in moments.into_iter().enumerate() {
        for op in &recording.ops[done..moment] {
            match op {
                Op::Acknowledge(line) => acknowledged.add(line),
                op => disk.apply(op),
            }
        }
        done = moment;
        let folder = tempfile::tempdir().unwrap();
        disk.cut(&mut random, folder.path());
        let data = folder.path().join("data");
        findings.add(moment, recovery::check(&data, &acknowledged, count));
    }
    findings
}
