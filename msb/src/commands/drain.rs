//! `msb drain`

use clap::Args;

use super::done::Named;
use super::runtime::block_on;
use super::selection::Selection;

/// Lets sandboxes end what they do, and prints their names
///
/// New commands are refused from then on; when the last one has ended, the sandbox stops. `msb wait` waits for that.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when it was done with all of them, 1 otherwise

Examples:
  msb drain web
  msb drain web && msb wait web")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// Does it.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("drain", |sandbox| async move {
        sandbox.request_drain().await?;
        Ok(Named::new(sandbox.name()))
    }))
}
