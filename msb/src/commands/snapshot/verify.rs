//! `msb snapshot verify`

use clap::Args;
use microsandbox::snapshots::{SnapshotHandle, Snapshots};

use super::advice::advise;
use crate::commands::done::{Done, DoneArguments, Named};
use crate::commands::progress::Progress;
use crate::failure::{self, FAILED};

/// Reads all data of snapshots, compares it with what was copied, and prints which are in order
///
/// Nobody does that when a sandbox is made of one.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all are in order, 1 otherwise

Examples:
  msb snapshot verify base
  msb snapshot verify $(msb snapshot ls -q)")]
pub(super) struct Arguments {
    /// Names or paths of the snapshots
    #[arg(value_name = "SNAPSHOT", required = true)]
    snapshots: Vec<String>,

    #[command(flatten)]
    done: DoneArguments,
}

/// Verifies them.
pub(super) fn execute(snapshots: &Snapshots, arguments: &Arguments) -> anyhow::Result<u8> {
    let mut done = Done::new(arguments.done);
    let status = verify(snapshots, &arguments.snapshots, |found| {
        done.add(Named::new(found.display_name()))
    })?;
    done.finish()?;
    Ok(status)
}

/// Verifies all of them, and reports each that is not in order. Returns the exit status.
///
/// # Errors
/// Those of `in_order`, which is told of the others.
pub(super) fn verify(
    snapshots: &Snapshots,
    names: &[String],
    mut in_order: impl FnMut(&SnapshotHandle) -> anyhow::Result<()>,
) -> anyhow::Result<u8> {
    let mut status = 0;
    let mut progress = Progress::new(0)?;
    for name in names {
        let verified = snapshots.verify(name, &mut |done, total| progress.advance_of(done, total));
        match verified {
            Ok(found) => in_order(&found)?,
            Err(_) if progress.is_ended() => break,
            Err(error) => {
                failure::report(&advise(error));
                status = FAILED;
            }
        }
    }
    Ok(progress
        .finish()
        .map_or(status, |signal| 128 + signal as u8))
}
