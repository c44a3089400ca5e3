//! `msb snapshot`

pub(super) mod advice;
mod create;
mod inspect;
mod load;
mod ls;
mod rm;
mod save;
mod verify;
mod view;

use clap::{Args, Subcommand};
use microsandbox::home::Home;
use microsandbox::snapshots::Snapshots;

use crate::failure::Hint;

/// Makes, shows and removes snapshots of the disks of stopped sandboxes, with which others begin
#[derive(Debug, Args)]
#[command(
    after_help = "A snapshot is what a sandbox has changed, kept under a name or as a directory. It is named by its name, or by its path, which
contains / or begins with . or ~.

Examples:
  msb stop web
  msb snapshot create base --from web
  msb run --from-snapshot base -- ls /
  msb create --name two --from-snapshot base
  msb snapshot ls
  msb snapshot save base -o base.tar.zst --with-image
  msb snapshot load -i base.tar.zst
  msb snapshot rm base"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Arguments),
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    Inspect(inspect::Arguments),
    Verify(verify::Arguments),
    #[command(visible_alias = "remove")]
    Rm(rm::Arguments),
    Save(save::Arguments),
    Load(load::Arguments),
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let snapshots = Snapshots::open(&home).map_err(advice::advise)?;
    match arguments.command {
        Command::Create(arguments) => create::execute(&snapshots, arguments),
        Command::Ls(arguments) => ls::execute(&snapshots, &arguments),
        Command::Inspect(arguments) => inspect::execute(&snapshots, &arguments),
        Command::Verify(arguments) => verify::execute(&snapshots, &arguments),
        Command::Rm(arguments) => rm::execute(&snapshots, &arguments),
        Command::Save(arguments) => save::execute(&snapshots, &arguments),
        Command::Load(arguments) => load::execute(&snapshots, arguments),
    }
}
