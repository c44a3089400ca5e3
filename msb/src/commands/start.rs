//! `msb start`

use clap::Args;

use super::done::Named;
use super::runtime::block_on;
use super::selection::Selection;

/// Starts sandboxes that have stopped, and prints their names
///
/// They run on by themselves, with the files that they had.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it was done with all of them, 1 otherwise

Examples:
  msb start web
  msb start web && msb exec web uptime
  msb start --label tier=batch")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// Does it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("start", |sandbox| async move {
        sandbox.start_detached().await?;
        Ok(Named::new(sandbox.name()))
    }))
}
