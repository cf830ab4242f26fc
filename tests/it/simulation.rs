//! The simulation: some seeds of `make simulate`, and that a seed always runs in the same way.

use std::{fs, path::Path, process::Command};

/// Runs the simulation. Returns what it printed.
fn simulate(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_simulate")).args(arguments).output().unwrap();
    let printed = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{printed}\n{errors}");
    printed
}

#[test]
fn the_promises_are_kept_whatever_fails() {
    let printed = simulate(&["--seeds", "16"]);
    for fault in [
        "database: deleted events",
        "database: outages",
        "database: lost responses",
        "gateway: 5xx after delivery",
        "lambda: jobs handled twice",
        "lambda: killed functions of clients",
        "lambda: killed invocations",
        "pollers: frozen",
        "pollers: killed",
        "pollers: that poll the server",
        "rules: withdrawn rights",
        "shards: changed for the functions",
        "shards: changed for the pollers",
        "upstreams: doubled messages",
        "upstreams: dropped connections",
        "upstreams: failed requests",
        "upstreams: invalid messages",
        "upstreams: reordered messages",
        "upstreams: silences",
        "upstreams: skipped trades",
    ] {
        assert!(printed.contains(fault), "{fault} did not happen:\n{printed}");
    }
}

#[test]
fn two_runs_of_a_seed_are_identical() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str| -> Vec<u8> {
        let file = folder.path().join(name);
        simulate(&["--seed", "5", "--json", "--trace", path(&file)]);
        fs::read(file).unwrap()
    };
    let (one, other) = (run("one"), run("other"));
    assert!(one.len() > 1_000_000, "the trace has only {} bytes", one.len());
    let differs = one.split(|&byte| byte == b'\n').zip(other.split(|&byte| byte == b'\n'));
    let mut differs = differs.filter(|(one, other)| one != other);
    if let Some((one, other)) = differs.next() {
        panic!("{}\n{}", String::from_utf8_lossy(one), String::from_utf8_lossy(other));
    }
    assert_eq!(one.len(), other.len());
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
