//! `msb restart`

use std::time::Duration;

use clap::Args;

use super::runtime::block_on;
use super::selection::Selection;
use crate::options::parse_grace;

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

    /// Time between SIGTERM and SIGKILL; a bare number counts seconds, 0 ends the sandbox at once
    #[arg(short, long, visible_alias = "time", value_name = "DURATION", default_value = "10s", value_parser = parse_grace)]
    timeout: Duration,
}

/// Restarts them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    let timeout = arguments.timeout;
    block_on(
        arguments
            .selection
            .each("restart", move |sandbox| async move {
                if sandbox.status().is_alive() {
                    sandbox.stop_with_timeout(timeout).await?;
                }
                sandbox.start_detached().await?;
                Ok(format!("{}\n", sandbox.name()))
            }),
    )
}
