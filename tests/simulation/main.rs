//! The simulation: pollers, environments of `push`, clients and their database in one thread, with
//! simulated time, and with the faults that AWS has every day.
//!
//! Everything follows from a seed: the random numbers, the time, and the order of the tasks. Each seed runs
//! in a process of its own, so that nothing is left from the one before.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs)]

mod check;
mod client;
mod database;
mod environments;
mod expiry;
mod gateway;
mod link;
mod plan;
mod pollers;
mod trace;
mod upstream;
mod world;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use clap::{Parser, ValueEnum};
use plan::Fault;
use serde::{Deserialize, Serialize};

/// Simulates pollers, `push`, clients and a database with faults, and checks that the promises are kept.
#[derive(Debug, Parser)]
#[command(name = "simulate")]
struct Options {
    /// Number of seeds to run
    #[arg(long, default_value_t = 20, value_name = "NUMBER")]
    seeds: u64,
    /// First seed to run
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    first: u64,
    /// Run only this seed, and print what happened
    #[arg(long, value_name = "SEED")]
    seed: Option<u64>,
    /// Leave out these faults
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAULTS")]
    without: Vec<Fault>,
    /// Write everything that passes between the parts to this file; requires --seed
    #[arg(long, requires = "seed", value_name = "FILE")]
    trace: Option<PathBuf>,
    /// Print the log of the parts; requires --seed
    #[arg(long, requires = "seed")]
    log: bool,
    /// Print the outcome as JSON; requires --seed
    #[arg(long, requires = "seed", hide = true)]
    json: bool,
}

/// What a run found.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Outcome {
    /// The promises that were broken.
    violations: Vec<String>,
    /// How often each fault happened.
    counts: BTreeMap<String, u64>,
    /// The digest of the trace.
    digest: u64,
}

fn main() -> ExitCode {
    let options = Options::parse();
    let outcomes = match options.seed {
        Some(seed) => {
            if options.log {
                tracing_subscriber::fmt().without_time().init();
            }
            let outcome = world::run(seed, &options.without, options.trace.as_deref());
            if options.json {
                println!("{}", serde_json::to_string(&outcome).unwrap());
                return ExitCode::SUCCESS;
            }
            println!("{:>16x}  digest of the trace", outcome.digest);
            vec![(seed, outcome)]
        }
        None => run_all(&options),
    };
    let is_kept = report(&outcomes);
    if options.seed.is_none() {
        for (seed, _) in outcomes.iter().filter(|(_, outcome)| !outcome.violations.is_empty()) {
            let without = shrink(*seed, &options.without);
            println!("seed {seed} fails with fewer faults too: {}", repeat(*seed, &without));
        }
    }
    if is_kept { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs the seeds, as many at a time as there are processors.
fn run_all(options: &Options) -> Vec<(u64, Outcome)> {
    let next = AtomicU64::new(options.first);
    let end = options.first + options.seeds;
    let outcomes = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = run_apart(seed, &options.without);
                    if !outcome.violations.is_empty() {
                        println!("seed {seed} failed");
                    }
                    outcomes.lock().unwrap().push((seed, outcome));
                }
            });
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort_by_key(|(seed, _)| *seed);
    outcomes
}

/// Runs a seed in a process of its own.
fn run_apart(seed: u64, without: &[Fault]) -> Outcome {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--json", "--seed", &seed.to_string()]);
    if !without.is_empty() {
        command.args(["--without", &names(without)]);
    }
    let output = command.output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| Outcome {
        violations: vec![format!(
            "the run ended with {}:\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        )],
        ..Outcome::default()
    })
}

/// Leaves out all faults without which a seed still fails. Returns those that are left out.
fn shrink(seed: u64, without: &[Fault]) -> Vec<Fault> {
    let mut without = without.to_vec();
    for fault in Fault::value_variants() {
        if without.contains(fault) {
            continue;
        }
        without.push(*fault);
        if run_apart(seed, &without).violations.is_empty() {
            without.pop();
        }
    }
    without
}

/// Returns the arguments that repeat a run.
fn repeat(seed: u64, without: &[Fault]) -> String {
    match without {
        [] => format!("--seed {seed}"),
        _ => format!("--seed {seed} --without {}", names(without)),
    }
}

fn names(faults: &[Fault]) -> String {
    let values = faults.iter().filter_map(ValueEnum::to_possible_value);
    values.map(|value| value.get_name().to_owned()).collect::<Vec<_>>().join(",")
}

/// Prints what the runs found. Returns whether all promises were kept.
fn report(outcomes: &[(u64, Outcome)]) -> bool {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    let mut violations = 0;
    for (seed, outcome) in outcomes {
        for (name, count) in &outcome.counts {
            *counts.entry(name).or_default() += count;
        }
        for violation in &outcome.violations {
            violations += 1;
            println!("seed {seed}: {violation}");
        }
    }
    for (name, count) in &counts {
        println!("{count:>16}  {name}");
    }
    println!("{:>16}  seeds, {violations} violations", outcomes.len());
    violations == 0
}
