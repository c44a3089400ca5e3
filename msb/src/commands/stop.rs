//! `msb stop`

use clap::Args;

use super::done::Named;
use super::grace::Grace;
use super::runtime::block_on;
use super::selection::Selection;

/// Stops running sandboxes, and prints their names
///
/// Their processes get SIGTERM, or the signal that --stop-signal or the image names for the sandbox's own, those that are left
/// SIGKILL; then the guest writes everything to its disks. A guest that does not answer is ended when the time is over.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them have stopped, 1 otherwise

Examples:
  msb stop web
  msb stop -t 1m db
  msb stop --label tier=batch")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    grace: Grace,
}

/// Stops them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let grace = arguments.grace;
    block_on(arguments.selection.each("stop", move |sandbox| async move {
        grace.stop(&sandbox).await?;
        Ok(Named::new(sandbox.name()))
    }))
}
