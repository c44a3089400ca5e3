//! The command line of microsandbox.

mod commands;
mod crash;
mod failure;
mod host;
mod kernel_files;
mod logging;
mod options;
mod output;
mod signals;
mod terminal;
mod usage;
mod vm;

use std::process::ExitCode;

use clap::Parser;

use commands::Cli;

fn main() -> ExitCode {
    crash::exit_on_panic();
    let status = match Cli::try_parse() {
        Ok(cli) => cli.execute().unwrap_or_else(|error| {
            failure::report(&error);
            usage::failure_status()
        }),
        Err(error) => usage::report(&error),
    };
    ExitCode::from(status)
}
