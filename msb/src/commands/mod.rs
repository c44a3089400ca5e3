//! The commands, one file each.

mod completion;
mod disk;
mod doctor;
mod run;
mod sandbox;
mod version;
mod vm;
mod volume;

use clap::{Parser, Subcommand};

/// Runs commands in microVMs: as easy as a container, with a machine of its own around each.
#[derive(Debug, Parser)]
#[command(
    name = "msb",
    version,
    arg_required_else_help = true,
    disable_help_subcommand = false
)]
#[command(after_help = "Examples:
  msb doctor                          Can this machine run microVMs?
  msb run ./rootfs                    A shell, with ./rootfs as its root file system
  msb run ./rootfs -- uname -a        One command")]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(Box<run::Arguments>),
    Vm(Box<vm::Arguments>),
    #[command(visible_alias = "vol")]
    Volume(volume::Arguments),
    Disk(disk::Arguments),
    Doctor(doctor::Arguments),
    Version(version::Arguments),
    Completion(completion::Arguments),
}

impl Cli {
    /// Runs the command and returns its exit status.
    ///
    /// # Errors
    /// What the command could not do.
    pub(crate) fn execute(self) -> anyhow::Result<u8> {
        match self.command {
            Command::Run(arguments) => run::execute(*arguments),
            Command::Vm(arguments) => vm::execute(*arguments),
            Command::Volume(arguments) => volume::execute(arguments),
            Command::Disk(arguments) => disk::execute(arguments),
            Command::Doctor(arguments) => doctor::execute(&arguments),
            Command::Version(arguments) => version::execute(&arguments),
            Command::Completion(arguments) => completion::execute(&arguments),
        }
    }
}

/// How a command prints what it found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// How a command prints a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ListFormat {
    /// For people: a line for each.
    Table,
    /// For programs.
    Json,
}
