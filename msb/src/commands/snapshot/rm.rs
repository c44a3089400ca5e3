//! `msb snapshot rm`

use clap::Args;
use microsandbox::snapshots::{SnapshotError, SnapshotName, Snapshots};

use super::advice::advise;
use crate::commands::done::{Done, DoneArguments, Named};
use crate::failure::{self, FAILED};

/// Removes snapshots that have names, and prints the names
///
/// Sandboxes that were made of them have copies, and stay as they are. All are removed that can be, whatever happens to one of them.
/// A snapshot that is only at a path is a directory to be removed as others.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all are removed, 1 otherwise

Examples:
  msb snapshot rm base
  msb snapshot rm -f base other")]
pub(super) struct Arguments {
    /// Names of the snapshots
    #[arg(value_name = "NAME", required = true)]
    names: Vec<SnapshotName>,

    /// Is content with snapshots that do not exist
    #[arg(short, long)]
    force: bool,

    #[command(flatten)]
    done: DoneArguments,
}

/// Removes them.
pub(super) fn execute(snapshots: &Snapshots, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut done = Done::new(arguments.done);
    let mut status = 0;
    for name in &arguments.names {
        match snapshots.remove(name) {
            Ok(()) => done.add(Named::new(name.to_string()))?,
            Err(SnapshotError::SnapshotNotFound { .. }) if arguments.force => {}
            Err(error) => {
                failure::report(&advise(error));
                status = FAILED;
            }
        }
    }
    done.finish()?;
    Ok(status)
}
