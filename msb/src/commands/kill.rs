//! `msb kill`

use clap::Args;

use super::done::Named;
use super::runtime::block_on;
use super::selection::Selection;

/// Ends running sandboxes at once, and prints their names
///
/// Nothing in the guest is asked: what it has not yet written to its disks is lost, as when the power fails.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it was done with all of them, 1 otherwise

Examples:
  msb kill web
  msb kill --label tier=batch")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// Does it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("kill", |sandbox| async move {
        sandbox.kill().await?;
        Ok(Named::new(sandbox.name()))
    }))
}
