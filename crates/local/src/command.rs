//! The commands of `headwater`, one module each: its options, its help text and its `run`.

pub mod database;
pub mod functions;
pub mod gateway;
pub mod health;
pub mod hosts;
pub mod listen;
pub mod policy;
pub mod simulate;
pub mod tail;
pub mod token;
pub mod up;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use domain::log_filter;
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

use crate::bench;

/// Streams public posts and market data to many subscribers.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, propagate_version = true)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,

    /// Log these levels, such as `debug`, or `info,poller=debug` for one crate. A level alone concerns
    /// Headwater's own crates; others log at `info` at most unless the filter names them.
    #[arg(
        long,
        env = "HEADWATER_LOG",
        value_name = "FILTER",
        default_value = "info",
        global = true
    )]
    pub log: String,
}

/// A command of `headwater`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the help text of each command is the doc comment of its options")]
pub enum Command {
    Up(Box<up::Options>),
    Gateway(Box<gateway::Options>),
    Functions(Box<functions::Options>),
    Database(database::Options),
    Simulate(simulate::Options),
    Tail(tail::Options),
    Health(health::Options),
    Token(token::Options),
    Policy(policy::Options),
    Bench(bench::Options),
}

impl Cli {
    /// Writes the log to the standard error stream.
    ///
    /// # Errors
    ///
    /// When `--log` is not a valid filter.
    pub fn start_logging(&self) -> anyhow::Result<()> {
        let filter = EnvFilter::try_new(log_filter::parse(&self.log))
            .with_context(|| format!("HEADWATER_LOG (--log) is {:?}", self.log))?;
        // The engine logs every failed condition as a warning, and failed conditions are normal here.
        let filter = match "dynoxide=error".parse() {
            Ok(quiet) if !self.log.contains("dynoxide") => filter.add_directive(quiet),
            _ => filter,
        };
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(std::io::stderr)
            .with_target(false)
            .init();
        Ok(())
    }
}

impl Command {
    /// Runs the command until it is done or `shutdown` is cancelled.
    ///
    /// # Errors
    ///
    /// When the command fails. The error is one line for the user.
    pub async fn run(self, shutdown: CancellationToken) -> anyhow::Result<()> {
        match self {
            Self::Up(options) => up::run(*options, shutdown).await,
            Self::Gateway(options) => gateway::run(*options, shutdown).await,
            Self::Functions(options) => functions::run(*options, shutdown).await,
            Self::Database(options) => database::run(options, shutdown).await,
            Self::Simulate(options) => simulate::run(options, shutdown).await,
            Self::Tail(options) => tail::run(options, shutdown).await,
            Self::Health(options) => health::run(&options).await,
            Self::Token(options) => token::run(&options),
            Self::Policy(options) => policy::run(options).await,
            Self::Bench(options) => bench::run(options, shutdown).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_every_visible_option_has_a_help_text() {
        let mut commands = vec![Cli::command()];
        while let Some(command) = commands.pop() {
            let name = command.get_name().to_owned();
            assert!(command.get_about().is_some(), "command: {name}");
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "command: {name}, option: {argument}");
            }
            commands.extend(command.get_subcommands().cloned());
        }
    }

    #[test]
    fn a_bad_value_is_rejected_with_the_name_of_its_option() {
        let cases = [
            (["headwater", "up", "--flush-ms", "0"], "--flush-ms"),
            (["headwater", "up", "--shards", "0"], "--shards"),
            (["headwater", "up", "--retention", "1s"], "--retention"),
            (["headwater", "up", "--jwt-secret", ""], "--jwt-secret"),
            (["headwater", "up", "--mastodon-servers", "nowhere"], "--mastodon-servers"),
            (["headwater", "up", "--coinbase-record", "ticker/btc"], "--coinbase-record"),
        ];
        for (arguments, name) in cases {
            let error = Cli::try_parse_from(arguments).expect_err(name);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
