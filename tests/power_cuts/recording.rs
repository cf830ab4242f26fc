//! The recording of a process: its writes to files and its syncs, from `strace`.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use dynamo::Durability;

use crate::appends;

/// The calls that change files. A name after `?` does not exist on every processor.
const CALLS: &str = "?open,openat,?openat2,?creat,write,pwrite64,writev,pwritev,pwritev2,ftruncate,truncate,\
    fallocate,fsync,fdatasync,sync_file_range,?rename,renameat,renameat2,?unlink,unlinkat,?mkdir,mkdirat,\
    ?link,linkat,?symlink,symlinkat,copy_file_range,sendfile,splice";

/// Longest data of one write, in bytes.
const MOST_BYTES: &str = "65536";

/// Something that the process did. Paths begin at the root of the recording.
#[derive(Debug)]
pub(crate) enum Op {
    MakeFolder(String),
    /// The file is created if it does not exist.
    Create(String),
    Write {
        path: String,
        offset: usize,
        bytes: Vec<u8>,
    },
    Truncate {
        path: String,
        size: usize,
    },
    /// Of a file or of a folder.
    Sync(String),
    Unlink(String),
    /// The writer knows that its append is done.
    Acknowledge(String),
}

/// What a process did, in order.
pub(crate) struct Recording {
    pub(crate) ops: Vec<Op>,
}

impl Recording {
    /// Runs the writer under `strace`. Returns `None` if the test is skipped, because `strace` cannot run.
    pub(crate) fn make(durability: Durability) -> Option<Self> {
        let mut probe = Command::new("strace");
        let probe = probe.args(["-o", "/dev/null", "true"]).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            harness::skip("strace is not installed or may not trace: apt-get install strace");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        // `strace` prints the paths of files without symbolic links.
        let root = folder.path().canonicalize().unwrap();
        let trace = root.join("trace");
        let writer = Command::new("strace")
            .args(["-f", "-y", "--seccomp-bpf", "-e", "signal=none", "-s", MOST_BYTES])
            .arg(format!("--trace={CALLS}"))
            .arg("-o")
            .arg(&trace)
            .arg(env!("CARGO_BIN_EXE_power-cuts-writer"))
            .env(appends::ROOT, &root)
            .env(appends::DURABILITY, name(durability))
            .output()
            .unwrap();
        let output = String::from_utf8_lossy(&writer.stdout);
        assert!(writer.status.success(), "{output}{}", String::from_utf8_lossy(&writer.stderr));
        Some(Self { ops: read(&fs::read(&trace).unwrap(), &root) })
    }

    /// Returns the number of syncs of a file after which more than one append was acknowledged.
    pub(crate) fn shared_commits(&self, file: &str) -> usize {
        let commits = self.ops.split(|op| matches!(op, Op::Sync(path) if path == file));
        let appends =
            commits.map(|ops| ops.iter().filter(|op| matches!(op, Op::Acknowledge(_))).count());
        appends.filter(|count| *count > 1).count()
    }

    /// Returns how often the beginning of a file was written.
    pub(crate) fn starts(&self, file: &str) -> usize {
        let is_start = |op: &&Op| matches!(op, Op::Write { path, offset: 0, .. } if path == file);
        self.ops.iter().filter(is_start).count()
    }
}

/// Returns the name of a durability.
fn name(durability: Durability) -> &'static str {
    match durability {
        Durability::Full => "full",
        Durability::Fast => "fast",
    }
}

/// Reads the output of `strace`.
fn read(trace: &[u8], root: &Path) -> Vec<Op> {
    let mut ops = Vec::new();
    // By process: the beginning of a call that another thread has interrupted.
    let mut unfinished: HashMap<&[u8], &[u8]> = HashMap::new();
    for line in trace.split(|byte| *byte == b'\n') {
        let Some(space) = line.iter().position(|byte| *byte == b' ') else { continue };
        let (process, call) = line.split_at(space);
        let call = call.trim_ascii();
        if call.starts_with(b"+++") || call.starts_with(b"---") {
            continue;
        }
        if let Some(start) = call.strip_suffix(b" <unfinished ...>") {
            unfinished.insert(process, start);
        } else if call.starts_with(b"<... ") {
            let resumed = b" resumed>";
            let end = call.windows(resumed.len()).position(|it| it == resumed).unwrap();
            let mut whole = unfinished.remove(process).unwrap().to_vec();
            whole.extend_from_slice(&call[end + resumed.len()..]);
            ops.extend(op(&whole, root));
        } else {
            ops.extend(op(call, root));
        }
    }
    ops
}

/// Reads one call, such as `pwrite64(4</a/file>, "data", 4, 100) = 4`. Returns `None` if it concerns another
/// file or has failed.
fn op(call: &[u8], root: &Path) -> Option<Op> {
    let mut rest = Rest(call);
    let name = rest.until(b'(');
    let name = std::str::from_utf8(name).unwrap();
    let inside = |path: &str| {
        let path = path.strip_suffix(" (deleted)").unwrap_or(path);
        Some(Path::new(path).strip_prefix(root).ok()?.to_str().unwrap().to_owned())
    };
    if !is_done(call) {
        return None;
    }
    match name {
        "write" => {
            let path = inside(&rest.file())?;
            let bytes = rest.string();
            assert_eq!(path, appends::ACKNOWLEDGED, "a write without an offset");
            Some(Op::Acknowledge(String::from_utf8(bytes).unwrap()))
        }
        "pwrite64" => {
            let path = inside(&rest.file())?;
            let bytes = rest.string();
            let size = rest.number();
            assert_eq!(size, bytes.len(), "the data is complete");
            let offset = rest.number();
            let is_whole = rest.0.ends_with(format!("= {size}").as_bytes());
            assert!(is_whole, "a part of {size} bytes was written");
            Some(Op::Write { path, offset, bytes })
        }
        "ftruncate" => Some(Op::Truncate { path: inside(&rest.file())?, size: rest.number() }),
        "fsync" | "fdatasync" => Some(Op::Sync(inside(&rest.file())?)),
        "unlink" | "unlinkat" | "mkdir" | "mkdirat" | "open" | "openat" => {
            let path = String::from_utf8(rest.string()).unwrap();
            let path = inside(&path).filter(|path| path != appends::ACKNOWLEDGED)?;
            let has = |flag: &str| rest.0.windows(flag.len()).any(|it| it == flag.as_bytes());
            match name {
                "unlink" | "unlinkat" => Some(Op::Unlink(path)),
                "mkdir" | "mkdirat" => Some(Op::MakeFolder(path)),
                // Only the lock is truncated, and it is always empty.
                _ => has("O_CREAT").then_some(Op::Create(path)),
            }
        }
        // Nothing that changes the database is left out.
        _ => {
            let text = String::from_utf8_lossy(call);
            let root = root.to_str().unwrap();
            assert!(!text.contains(root), "a call that the model does not know: {text:.200}");
            None
        }
    }
}

/// Returns whether a call has succeeded. The result of an error is `-1 ENOENT (No such file or directory)`, for
/// example, and that of a call during which the process exits is `?`.
fn is_done(call: &[u8]) -> bool {
    let end = String::from_utf8_lossy(&call[call.len().saturating_sub(200)..]);
    let result = end.rsplit_once("= ").map_or("", |(_, result)| result);
    result.starts_with(|first: char| first.is_ascii_digit())
}

/// The arguments of a call that are not read yet.
struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    /// Takes everything before a character, and the character.
    fn until(&mut self, end: u8) -> &'a [u8] {
        let at = self.0.iter().position(|byte| *byte == end).unwrap_or(self.0.len());
        let (taken, rest) = self.0.split_at(at);
        self.0 = rest.get(1..).unwrap_or_default();
        taken
    }

    /// Takes a file, such as `4</a/file>`. Returns its path.
    fn file(&mut self) -> String {
        self.until(b'<');
        String::from_utf8(self.until(b'>').to_vec()).unwrap()
    }

    /// Takes a decimal number, after anything else.
    fn number(&mut self) -> usize {
        let start = self.0.iter().position(u8::is_ascii_digit).unwrap();
        self.0 = &self.0[start..];
        let end = self.0.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.0.len());
        let (digits, rest) = self.0.split_at(end);
        self.0 = rest;
        std::str::from_utf8(digits).unwrap().parse().unwrap()
    }

    /// Takes a string in quotes, after anything else.
    fn string(&mut self) -> Vec<u8> {
        self.until(b'"');
        let mut bytes = Vec::new();
        loop {
            let (byte, rest) = self.0.split_first().unwrap();
            self.0 = rest;
            match byte {
                b'"' => break,
                b'\\' => bytes.push(self.escaped()),
                byte => bytes.push(*byte),
            }
        }
        assert!(!self.0.starts_with(b"..."), "a write of more than {MOST_BYTES} bytes");
        bytes
    }

    /// Takes what follows a backslash: a letter, or up to three octal digits.
    fn escaped(&mut self) -> u8 {
        let is_octal = |byte: &u8| (b'0'..=b'7').contains(byte);
        let digits = self.0.iter().take(3).take_while(|byte| is_octal(byte)).count();
        let (taken, rest) = self.0.split_at(digits.max(1));
        self.0 = rest;
        match taken[0] {
            b'n' => b'\n',
            b't' => b'\t',
            b'r' => b'\r',
            b'v' => 0x0b,
            b'f' => 0x0c,
            byte if digits == 0 => byte,
            _ => taken.iter().fold(0_u8, |value, digit| value.wrapping_mul(8) + (digit - b'0')),
        }
    }
}
