//! `msb unpause`

use clap::Args;

use super::done::Named;
use super::runtime::block_on;
use super::selection::Selection;

/// Lets paused sandboxes go on, and prints their names
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it was done with all of them, 1 otherwise

Examples:
  msb unpause web
  msb unpause --label tier=batch")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// Does it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("unpause", |sandbox| async move {
        sandbox.resume().await?;
        Ok(Named::new(sandbox.name()))
    }))
}
