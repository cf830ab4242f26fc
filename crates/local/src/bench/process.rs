//! The CPU time and the memory of a process, read from `/proc` on Linux.

use std::{fs, time::Duration};

use anyhow::Context as _;
use serde_json::{Value, json};

/// The unit of CPU time in `/proc`: `USER_HZ` is 100 on every Linux (`man 5 proc`).
const TICK: Duration = Duration::from_millis(10);

/// Returns the CPU time of a process, in user and kernel mode together.
///
/// # Errors
///
/// When there is no such process.
pub(super) fn cpu_time(pid: u32) -> anyhow::Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .context("cannot read the CPU time of the process")?;
    // The name is in parentheses and may contain any character. The numbers follow it.
    let numbers = stat.rsplit(')').next().unwrap_or_default();
    let ticks: u32 = numbers
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|ticks| ticks.parse::<u32>().ok())
        .sum();
    Ok(TICK * ticks)
}

/// Returns a figure of `/proc/PID/status`, such as `VmRSS`, in KiB.
///
/// # Errors
///
/// When there is no such process or figure.
pub(super) fn memory_kib(pid: u32, figure: &str) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .context("cannot read the memory of the process")?;
    let line = status.lines().find(|line| line.starts_with(figure));
    let number = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    number.with_context(|| format!("the system does not report {figure}"))
}

/// Describes the machine.
pub(super) fn machine() -> Value {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    json!({
        "cpu": model.map(|(_, name)| name.trim()),
        "cores": std::thread::available_parallelism().map_or(1, usize::from),
        "kernel": kernel.trim(),
    })
}
