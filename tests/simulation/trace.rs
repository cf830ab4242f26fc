//! The trace of a run: everything that passes between its parts. Two runs of a seed have the same trace.

use std::{
    collections::BTreeMap,
    fs::File,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::{BufWriter, Write as _},
    path::Path,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::Outcome;

/// Most violations that are kept of each run.
const MOST_VIOLATIONS: usize = 20;

/// Records what happens, with the simulated time. Clones share everything.
#[derive(Clone)]
pub(crate) struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    started: Instant,
    digest: DefaultHasher,
    file: Option<BufWriter<File>>,
    counts: BTreeMap<String, u64>,
    violations: Vec<String>,
}

impl Trace {
    /// Starts a trace. It is written to `file`, if there is one.
    pub(crate) fn start(file: Option<&Path>) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            started: Instant::now(),
            digest: DefaultHasher::new(),
            file: file.map(|path| BufWriter::new(File::create(path).unwrap())),
            counts: BTreeMap::new(),
            violations: Vec::new(),
        })))
    }

    /// Records a line.
    pub(crate) fn record(&self, who: &str, what: &[u8]) {
        let mut inner = self.0.lock();
        let micros = inner.started.elapsed().as_micros();
        (micros, who, what).hash(&mut inner.digest);
        if let Some(file) = &mut inner.file {
            writeln!(file, "{micros} {who} {}", String::from_utf8_lossy(what)).unwrap();
        }
    }

    /// Counts a fault that happened.
    pub(crate) fn count(&self, name: &str) {
        let mut inner = self.0.lock();
        if let Some(count) = inner.counts.get_mut(name) {
            *count += 1;
        } else {
            inner.counts.insert(name.to_owned(), 1);
        }
    }

    /// Reports a promise that was broken.
    pub(crate) fn violation(&self, text: &str) {
        let mut inner = self.0.lock();
        if inner.violations.len() < MOST_VIOLATIONS {
            let seconds = inner.started.elapsed().as_secs_f64();
            inner.violations.push(format!("{seconds:.3} {text}"));
        }
    }

    /// Ends the trace.
    pub(crate) fn end(&self) -> Outcome {
        let mut inner = self.0.lock();
        if let Some(file) = &mut inner.file {
            file.flush().unwrap();
        }
        Outcome {
            violations: std::mem::take(&mut inner.violations),
            counts: std::mem::take(&mut inner.counts),
            digest: inner.digest.finish(),
        }
    }
}
