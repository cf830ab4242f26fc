//! The table of settings in the documentation.

use std::{collections::BTreeSet, path::Path};

use clap::CommandFactory as _;
use harness::Program;
use local::command::Cli;

/// The document with the table, relative to this package.
const DOCUMENT: &str = "../docs/configuration.md";

#[tokio::test]
async fn the_documentation_lists_every_variable_and_no_other() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    let text = std::fs::read_to_string(path).unwrap();
    let listed: BTreeSet<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|row| row.split('`').next())
        .filter(|name| name.starts_with("HEADWATER_"))
        .collect();

    // The options of the functions are part of `headwater functions`.
    let mut known = variables(&Cli::command());
    let poller = Program::run_other("headwater-poller", &["--help"], &[]).await;
    assert_eq!(poller.code, Some(0), "{poller:?}");
    known.extend(poller.stdout.split("[env: ").skip(1).filter_map(|rest| {
        let name = rest.split(['=', ']']).next()?;
        name.starts_with("HEADWATER_").then(|| name.to_owned())
    }));

    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let missing: Vec<_> = known.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&known).collect();
    assert!(missing.is_empty(), "{DOCUMENT} does not list {missing:?}");
    assert!(unknown.is_empty(), "{DOCUMENT} lists {unknown:?}, which no program reads");
}

/// Returns the variables of a command and of its subcommands.
fn variables(command: &clap::Command) -> BTreeSet<String> {
    let own = command
        .get_arguments()
        .filter_map(|argument| argument.get_env())
        .map(|name| name.to_string_lossy().into_owned());
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}
