//! Exit statuses of errors, and wrong usage.

use std::env;
use std::error::Error;

use clap::error::{ContextKind, ErrorKind};

use crate::{failure, output};

/// Exit status for an error of the command that the user gave.
pub(crate) fn failure_status() -> u8 {
    if runs_a_guest() {
        failure::RUN_FAILED
    } else {
        failure::FAILED
    }
}

/// Prints what clap has to say, help or an error, and returns the exit status.
pub(crate) fn report(error: &clap::Error) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            return match output::print(&error.render().to_string()) {
                Ok(()) => 0,
                Err(_) => failure::FAILED,
            };
        }
        ErrorKind::ValueValidation => failure::report(&wrong_value(error)),
        _ => {
            // Without standard error there is nobody to tell.
            let _ = error.print();
        }
    }
    if runs_a_guest() {
        failure::RUN_FAILED
    } else {
        failure::WRONG_USAGE
    }
}

/// The error of an option's value in the form of all other errors.
fn wrong_value(error: &clap::Error) -> anyhow::Error {
    let context = |kind| error.get(kind).map(ToString::to_string).unwrap_or_default();
    let value = context(ContextKind::InvalidValue);
    // As clap names it: `--memory <SIZE>`.
    let argument = context(ContextKind::InvalidArg);
    let argument = argument.split(' ').next().unwrap_or_default();
    let message = format!("invalid value {value:?} for {argument}");
    let error = match error.source() {
        Some(source) => anyhow::anyhow!("{source}").context(message),
        None => anyhow::anyhow!(message),
    };
    let command = command().unwrap_or_default();
    failure::with_hint(
        error,
        format!("`msb {command} --help` describes the options"),
    )
}

/// Whether the command stands for a process in a guest, whose exit statuses are not `msb`'s own.
fn runs_a_guest() -> bool {
    matches!(
        command().as_deref(),
        Some("run" | "vm" | "exec" | "attach" | "shell")
    )
}

/// The command as given: no options come before it.
fn command() -> Option<String> {
    env::args_os().nth(1)?.into_string().ok()
}
