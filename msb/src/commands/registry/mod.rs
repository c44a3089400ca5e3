//! `msb registry`

mod ls;

use clap::{Args, Subcommand};

use super::{login, logout};

/// Logs in and out at registries, and shows where somebody is logged in
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb registry ls
  msb registry login ghcr.io")]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    Login(login::Arguments),
    Logout(logout::Arguments),
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    match arguments.command {
        Command::Ls(arguments) => ls::execute(&arguments),
        Command::Login(arguments) => login::execute(arguments),
        Command::Logout(arguments) => logout::execute(&arguments),
    }
}
