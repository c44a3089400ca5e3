//! `msb wait`

use clap::Args;
use microsandbox::sandbox::SandboxStatus;

use super::runtime::block_on;
use super::selection::Selection;

/// Waits until sandboxes have stopped, and prints the exit status of each
///
/// That is the status of the sandbox's own process, 128+N when signal N ended it; 0 of a sandbox without such a process that
/// stopped in good order, 1 of one that crashed.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them have stopped, in whatever way; 1 otherwise

Examples:
  msb wait build
  msb stop web & msb wait web")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// Waits for them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("wait for", |sandbox| async move {
        let end = sandbox.wait_until_stopped().await?;
        let crashed = i32::from(end.status == SandboxStatus::Crashed);
        let signal = end.signal.map(|signal| signal.saturating_add(128));
        Ok(format!("{}\n", end.exit_code.or(signal).unwrap_or(crashed)))
    }))
}
