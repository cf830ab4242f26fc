//! A model of a disk: what was synced is on it, and any part of what was not.
//!
//! A sync of a file covers its content. The entry of a file in its folder is covered only by a sync of the
//! folder. That is all that POSIX promises; most file systems do more. The model assumes that a write does not
//! damage bytes beside its range, as the engine does, and that a sync is true.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::Path,
};

use crate::recording::Op;

/// The files of a process and what the disk has of them.
#[derive(Default)]
pub(crate) struct Disk {
    /// All files and folders that ever existed.
    nodes: Vec<Node>,
    /// What the process sees: the node at each path.
    seen: HashMap<String, usize>,
    /// What the disk has.
    synced: BTreeMap<String, usize>,
    /// Changes of entries that are not synced: a path and its node.
    unsynced: Vec<(String, Option<usize>)>,
}

#[derive(Default)]
struct Node {
    is_folder: bool,
    /// The content that is on the disk.
    synced: Vec<u8>,
    unsynced: Vec<Change>,
}

enum Change {
    Write { offset: usize, bytes: Vec<u8> },
    Truncate { size: usize },
}

impl Disk {
    /// Does what the process did.
    pub(crate) fn apply(&mut self, op: &Op) {
        match op {
            Op::MakeFolder(path) => self.add(path, true),
            Op::Create(path) if !self.seen.contains_key(path) => self.add(path, false),
            Op::Create(_) | Op::Acknowledge(_) => {}
            Op::Write { path, offset, bytes } => {
                self.change(path, Change::Write { offset: *offset, bytes: bytes.clone() });
            }
            Op::Truncate { path, size } => self.change(path, Change::Truncate { size: *size }),
            Op::Sync(path) => self.sync(path),
            Op::Unlink(path) => {
                self.seen.remove(path);
                self.unsynced.push((path.clone(), None));
            }
        }
    }

    fn add(&mut self, path: &str, is_folder: bool) {
        let node = self.nodes.len();
        self.nodes.push(Node { is_folder, ..Node::default() });
        self.seen.insert(path.to_owned(), node);
        self.unsynced.push((path.to_owned(), Some(node)));
    }

    fn change(&mut self, path: &str, change: Change) {
        self.nodes[self.seen[path]].unsynced.push(change);
    }

    fn sync(&mut self, path: &str) {
        if let Some(node) = self.seen.get(path) {
            let node = &mut self.nodes[*node];
            for change in node.unsynced.drain(..) {
                change.apply(&mut node.synced);
            }
        }
        // Of a folder, also the entries.
        for (entry, node) in self.unsynced.extract_if(.., |(entry, _)| folder_of(entry) == path) {
            set(&mut self.synced, entry, node);
        }
    }

    /// Cuts the power. Writes the files that are then on the disk into the folder `root`.
    pub(crate) fn cut(&self, random: &mut fastrand::Rng, root: &Path) {
        // From a disk that has written everything to one that has written nothing.
        let kept = f64::from(random.u8(0..=4)) / 4.0;
        let mut entries = self.synced.clone();
        for (entry, node) in &self.unsynced {
            if random.f64() < kept {
                set(&mut entries, entry.clone(), *node);
            }
        }
        for (path, node) in &entries {
            let node = &self.nodes[*node];
            if node.is_folder {
                fs::create_dir(root.join(path)).unwrap();
            // The entry of the folder may be lost, and with it everything inside.
            } else if entries.contains_key(folder_of(path)) {
                let content = if is_rebuilt(path) {
                    // Processes share it in memory. A power cut can leave anything there.
                    (0..random.usize(..40_000)).map(|_| random.u8(..)).collect()
                } else {
                    node.content(random, kept)
                };
                fs::write(root.join(path), content).unwrap();
            }
        }
    }
}

impl Node {
    /// Returns the content after a power cut. About the share `kept` of what was not synced is there.
    fn content(&self, random: &mut fastrand::Rng, kept: f64) -> Vec<u8> {
        let mut content = self.synced.clone();
        for change in &self.unsynced {
            match change {
                Change::Write { offset, bytes } if random.u8(..3) == 0 => {
                    let sector = if random.bool() { 512 } else { 4_096 };
                    let end = offset + bytes.len();
                    let mut start = *offset;
                    while start < end {
                        let next = ((start / sector + 1) * sector).min(end);
                        if random.f64() < kept {
                            write(&mut content, start, &bytes[start - offset..next - offset]);
                        }
                        start = next;
                    }
                }
                change if random.f64() < kept => change.apply(&mut content),
                _ => {}
            }
        }
        content
    }
}

impl Change {
    fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Self::Write { offset, bytes } => write(content, *offset, bytes),
            Self::Truncate { size } => content.resize(*size, 0),
        }
    }
}

fn write(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    let end = offset + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[offset..end].copy_from_slice(bytes);
}

fn set(entries: &mut BTreeMap<String, usize>, entry: String, node: Option<usize>) {
    match node {
        Some(node) => entries.insert(entry, node),
        None => entries.remove(&entry),
    };
}

fn folder_of(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Returns whether the engine makes the content of a file anew after a power cut: the index of the WAL.
fn is_rebuilt(path: &str) -> bool {
    path.ends_with("-shm")
}
