//! `msb restart`

use clap::Args;

use super::done::Named;
use super::ended::has_ended;
use super::grace::Grace;
use super::runtime::block_on;
use super::selection::Selection;

/// Stops sandboxes if they run, starts them, and prints their names
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them run again, 1 otherwise

Examples:
  msb restart web
  msb restart -t 0 web                      Ends it at once before")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,

    #[command(flatten)]
    grace: Grace,
}

/// Restarts them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let grace = arguments.grace;
    block_on(
        arguments
            .selection
            .each("restart", move |sandbox| async move {
                if sandbox.status().is_alive() {
                    match grace.stop(&sandbox).await {
                        Err(error) if has_ended(&error) => {}
                        stopped => stopped?,
                    }
                }
                sandbox.start_detached().await?;
                Ok(Named::new(sandbox.name()))
            }),
    )
}
