//! The program `headwater` as a process of its own.

use std::{net::SocketAddr, path::PathBuf, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    task::JoinHandle,
    time,
};

use crate::PATIENCE;

/// A running program.
pub struct Program {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    log: Option<JoinHandle<String>>,
}

/// The result of a program that has ended.
#[derive(Debug)]
pub struct Finished {
    /// The exit code, or `None` if a signal ended the program.
    pub code: Option<i32>,
    /// The standard output.
    pub stdout: String,
    /// The standard error.
    pub stderr: String,
}

impl Program {
    /// Starts `headwater` with arguments and variables. It shares the test's standard error.
    pub fn start(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        Self::start_other("headwater", arguments, variables)
    }

    /// Returns the most memory that it has had, in bytes.
    pub fn peak_memory(&self) -> u64 {
        let process = self.child.id().expect("it runs");
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Starts another program of this repository, such as `headwater-poller`.
    pub fn start_other(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command(name, arguments, variables).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines, log: None }
    }

    /// Starts `headwater` as [`Program::start`] does, and keeps its log, which is its standard error.
    pub fn start_with_log(arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let mut child = command("headwater", arguments, variables)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut stderr = child.stderr.take().unwrap();
        // The program must never wait until its log is read.
        let log = tokio::spawn(async move {
            let mut text = String::new();
            stderr.read_to_string(&mut text).await.unwrap();
            text
        });
        Self { child, lines, log: Some(log) }
    }

    /// Waits until the program prints its address, and returns the address.
    pub async fn address(&mut self) -> SocketAddr {
        loop {
            let line = self.line().await;
            if let Some((_, rest)) = line.split_once("ws://") {
                return rest.trim_end_matches("/live").parse().unwrap();
            }
        }
    }

    /// Stops the program and returns its log.
    pub async fn terminate_and_read_log(mut self) -> String {
        let log = self.log.take().expect("the program was started with its log");
        self.terminate().await;
        log.await.unwrap()
    }

    /// Runs `headwater` to its end.
    pub async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
        Self::run_other("headwater", arguments, variables).await
    }

    /// Runs another program of this repository to its end.
    pub async fn run_other(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Finished {
        let run = command(name, arguments, variables).stdin(Stdio::null()).output();
        let output = time::timeout(PATIENCE, run)
            .await
            .unwrap_or_else(|_| panic!("{name} {arguments:?} does not end"))
            .unwrap();
        Finished {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Waits for the next line of its standard output.
    pub async fn line(&mut self) -> String {
        time::timeout(PATIENCE, self.lines.next_line())
            .await
            .expect("the program prints a line in time")
            .unwrap()
            .expect("the program prints a line before it ends")
    }

    /// Kills the program.
    pub async fn kill(mut self) {
        self.child.kill().await.unwrap();
    }

    /// Sends `SIGTERM`, and waits until the program has ended.
    pub async fn terminate(mut self) {
        let id = self.child.id().unwrap().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().await.unwrap().success());
        let ended = time::timeout(PATIENCE, self.child.wait()).await;
        let status = ended.expect("the program ends when asked to").unwrap();
        assert!(status.success(), "{status}");
    }
}

pub(crate) fn command(name: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary(name));
    without_settings(&mut command);
    command.args(arguments).envs(variables.iter().copied()).kill_on_drop(true);
    command
}

/// Removes the settings in the environment of the tests.
pub(crate) fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HEADWATER_") {
            command.env_remove(name);
        }
    }
}

/// Returns the folder of the programs, which is next to that of the tests.
pub(crate) fn folder() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|deps| deps.parent()).unwrap().to_owned()
}

fn binary(name: &str) -> PathBuf {
    let binary = folder().join(name);
    assert!(
        binary.exists(),
        "{} is missing: build it first, as `make test` does",
        binary.display()
    );
    binary
}
