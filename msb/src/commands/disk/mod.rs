//! `msb disk`

mod check;
mod convert;
mod create;
mod format;
mod info;
mod layout;
mod resize;

use clap::{Args, Subcommand};

/// Makes, describes, resizes, converts and checks disk images
#[derive(Debug, Args)]
#[command(
    after_help = "The format of an image is what -f says, or else what the extension of its name says: .raw .img .iso (raw), .qcow2, .vmdk.
Contents are never looked at for it: a guest can write them.

Examples:
  msb disk create data.qcow2 20G
  msb disk create -b base.qcow2 -F qcow2 overlay.qcow2
  msb disk info data.qcow2
  msb disk resize data.qcow2 +10G
  msb disk convert appliance.vmdk appliance.qcow2
  msb disk check data.qcow2"
)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(create::Arguments),
    Info(info::Arguments),
    Resize(resize::Arguments),
    Convert(convert::Arguments),
    Check(check::Arguments),
}

/// Runs the command and returns its exit status.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    match arguments.command {
        Command::Create(arguments) => create::execute(&arguments),
        Command::Info(arguments) => info::execute(&arguments),
        Command::Resize(arguments) => resize::execute(&arguments),
        Command::Convert(arguments) => convert::execute(&arguments),
        Command::Check(arguments) => check::execute(&arguments),
    }
}
