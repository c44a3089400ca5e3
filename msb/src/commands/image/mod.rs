//! `msb image`

pub(super) mod advice;
mod history;
mod inspect;
mod load;
mod ls;
mod prune;
mod removed;
mod rm;
mod save;
mod tag;
pub(super) mod view;

use clap::{Args, Subcommand};
use microsandbox::home::Home;
use microsandbox::images::Images;

use super::pull;
use crate::failure::Hint;

/// Pulls, loads, saves, shows and removes images, of which sandboxes are made
#[derive(Debug, Args)]
#[command(
    after_help = "An image is named as Docker names it (debian, python:3.12, ghcr.io/owner/image:tag), or by its digest: the manifest's, or the
configuration's, which Docker calls the ID. The first 6 digits are enough.

Examples:
  msb image pull debian
  msb image load debian.tar
  msb image ls
  msb image inspect debian
  msb image save -o debian.tar debian
  msb image rm debian
  msb image prune --all"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Pull(pull::Arguments),
    #[command(visible_alias = "list")]
    Ls(ls::Arguments),
    Inspect(inspect::Arguments),
    History(history::Arguments),
    Load(load::Arguments),
    Save(save::Arguments),
    Tag(tag::Arguments),
    #[command(visible_alias = "remove")]
    Rm(rm::Arguments),
    Prune(prune::Arguments),
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let home = Home::from_environment().hint("set MSB_HOME to a directory of yours")?;
    let images = Images::open(&home).map_err(advice::advise)?;
    match arguments.command {
        Command::Pull(arguments) => pull::execute(arguments),
        Command::Ls(arguments) => ls::execute(&images, &arguments),
        Command::Inspect(arguments) => inspect::execute(&images, &arguments),
        Command::History(arguments) => history::execute(&images, &arguments),
        Command::Load(arguments) => load::execute(&images, arguments),
        Command::Save(arguments) => save::execute(&images, &arguments),
        Command::Tag(arguments) => tag::execute(&images, &arguments),
        Command::Rm(arguments) => rm::execute(&images, &arguments),
        Command::Prune(arguments) => prune::execute(&images, &arguments),
    }
}
