//! `msb volume rm`

use clap::Args;
use microsandbox::volumes::{VolumeError, VolumeName, Volumes};

use super::advice::advise;
use crate::commands::done::{Done, DoneArguments, Named};
use crate::failure::{self, FAILED};

/// Removes volumes and their files, and prints their names
///
/// A volume that a sandbox uses is not removed. The others are, whatever happens to one of them.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all are removed, 1 otherwise

Examples:
  msb volume rm cache
  msb volume rm -f cache db")]
pub(super) struct Arguments {
    /// Names of the volumes
    #[arg(value_name = "NAME", required = true)]
    names: Vec<VolumeName>,

    /// Is content with volumes that do not exist
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    done: DoneArguments,
}

/// Removes them.
pub(super) fn execute(volumes: &Volumes, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut done = Done::new(arguments.done);
    let mut status = 0;
    for name in &arguments.names {
        match volumes.remove(name) {
            Ok(()) => done.add(Named::new(name.to_string()))?,
            Err(VolumeError::VolumeNotFound { .. }) if arguments.force => {}
            Err(error) => {
                failure::report(&advise(error));
                status = FAILED;
            }
        }
    }
    done.finish()?;
    Ok(status)
}
