//! The program `headwater`.

use std::{io::Write as _, process::ExitCode};

use anyhow::{Context as _, anyhow};
use aws::settings::explain;
use clap::{CommandFactory as _, Parser as _};
use local::{command::Cli, shutdown};
use tokio::runtime::Runtime;

/// The exit code for a bad command line; `clap` uses the same.
const USAGE_ERROR: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => match explain(&Cli::command(), &error) {
            Some(reason) => return fail(&anyhow!(reason), ExitCode::from(USAGE_ERROR)),
            None => error.exit(),
        },
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, ExitCode::FAILURE),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    cli.start_logging()?;
    Runtime::new().context("cannot start the runtime")?.block_on(async {
        let shutdown = shutdown::on_signal().context("cannot handle signals")?;
        cli.command.run(shutdown).await
    })
}

fn fail(error: &anyhow::Error, code: ExitCode) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "headwater: {error:#}");
    code
}
