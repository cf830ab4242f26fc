//! One-line messages about invalid settings.

use std::error::Error as _;

use clap::{
    Command, Error,
    error::{ContextKind, ContextValue, ErrorKind},
};

/// Returns a message that names the variable and the option of an invalid value and says what is wrong.
/// It never repeats a secret.
///
/// Returns `None` for any other error, such as an unknown option or `--help`: `clap`'s own text is good
/// for those.
pub fn explain(command: &Command, error: &Error) -> Option<String> {
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {}
        _ => return None,
    }
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let usage = text(ContextKind::InvalidArg)?;
    let option = usage.split([' ', '=']).next()?;
    let is_meant = |argument: &&clap::Arg| {
        argument.get_long().is_some_and(|long| option.strip_prefix("--") == Some(long))
    };
    let mut commands = vec![command];
    let mut argument = None;
    while let Some(command) = commands.pop()
        && argument.is_none()
    {
        argument = command.get_arguments().find(is_meant);
        commands.extend(command.get_subcommands());
    }
    let name = match argument.and_then(clap::Arg::get_env) {
        Some(variable) => format!("{} ({option})", variable.to_string_lossy()),
        None => option.to_owned(),
    };
    let is_secret = argument.is_some_and(clap::Arg::is_hide_env_values_set);
    let value = text(ContextKind::InvalidValue).filter(|_| !is_secret);
    let reason = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(cause), _) => cause.to_string(),
        (None, Some(ContextValue::Strings(valid))) => {
            format!("it must be one of {}", valid.join(", "))
        }
        (None, _) => "it is missing".to_owned(),
    };
    Some(match value {
        Some(value) if !value.is_empty() => format!("{name} is {value:?}: {reason}"),
        _ => format!("{name}: {reason}"),
    })
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory as _, Parser};

    use super::*;

    #[derive(Debug, Parser)]
    struct Options {
        #[arg(long, env = "A_NUMBER", value_parser = clap::value_parser!(u8).range(1..=9))]
        number: Option<u8>,
        #[arg(long, env = "A_SECRET", hide_env_values = true, value_parser = reject)]
        secret: Option<String>,
        #[arg(long, value_parser = ["red", "blue"])]
        color: Option<String>,
    }

    fn reject(_: &str) -> Result<String, String> {
        Err("it is too short".to_owned())
    }

    #[test]
    fn a_bad_value_is_reported_on_one_line_with_its_names() {
        let cases = [
            ("--number=0", "A_NUMBER (--number) is \"0\": 0 is not in 1..=9"),
            ("--number=x", "A_NUMBER (--number) is \"x\": invalid digit found in string"),
            ("--secret=hush", "A_SECRET (--secret): it is too short"),
            ("--color=green", "--color is \"green\": it must be one of red, blue"),
        ];
        for (argument, expected) in cases {
            let error = Options::try_parse_from(["x", argument]).expect_err(argument);
            let message = explain(&Options::command(), &error);
            assert_eq!(message.as_deref(), Some(expected), "case: {argument}");
        }
    }

    #[test]
    fn other_errors_are_left_to_clap() {
        for argument in ["--help", "--nonsense"] {
            let error = Options::try_parse_from(["x", argument]).expect_err(argument);
            assert_eq!(explain(&Options::command(), &error), None, "case: {argument}");
        }
    }
}
