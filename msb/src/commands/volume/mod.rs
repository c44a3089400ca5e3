//! `msb volume`

pub(super) mod advice;
mod create;
mod du;
mod inspect;
mod ls;
mod rm;
mod view;

use clap::{Args, Subcommand};
use microsandbox::home::Home;
use microsandbox::volumes::Volumes;

use crate::failure::Hint;

/// Makes, shows and removes named volumes: files that outlive sandboxes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  msb volume create cache                   A directory
  msb volume create cache --quota 2G        The same, of which sandboxes can fill 2 GiB
  msb volume create db --kind disk --size 20G
                                            A disk of its own, for one sandbox at a time
  msb volume ls
  msb volume rm cache db")]
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
    #[command(visible_alias = "remove")]
    Rm(rm::Arguments),
    Du(du::Arguments),
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let volumes = Volumes::open(&home).map_err(advice::advise)?;
    match arguments.command {
        Command::Create(arguments) => create::execute(&volumes, arguments),
        Command::Ls(arguments) => ls::execute(&volumes, &arguments),
        Command::Inspect(arguments) => inspect::execute(&volumes, &arguments),
        Command::Rm(arguments) => rm::execute(&volumes, &arguments),
        Command::Du(arguments) => du::execute(&volumes, &arguments),
    }
}
