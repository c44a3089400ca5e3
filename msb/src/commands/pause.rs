//! `msb pause`

use clap::Args;

use super::done::Named;
use super::runtime::block_on;
use super::selection::Selection;

/// Halts the processors of running sandboxes, and prints their names
///
/// What runs in them stands still until `msb unpause`; stopping and killing work meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it was done with all of them, 1 otherwise

Examples:
  msb pause web
  msb pause --label tier=batch")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// Does it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("pause", |sandbox| async move {
        sandbox.pause().await?;
        Ok(Named::new(sandbox.name()))
    }))
}
