//! `msb wait`

use clap::Args;
use microsandbox::sandbox::{SandboxStatus, StopReason};
use serde::Serialize;

use super::done::Line;
use super::runtime::block_on;
use super::selection::Selection;
use crate::utc;

/// Waits until sandboxes have stopped, and prints the exit status of each in the order in which they are named
///
/// That is the status of the sandbox's own process, 128+N when signal N ended it, 137 when it ended with a machine that was killed. Of a
/// sandbox without such a process it is 0 when it stopped in good order, 137 when it was killed, 1 when it crashed.
#[derive(Debug, Args)]
#[command(after_help = "Exit status:
  0 when all of them have stopped, in whatever way; 1 otherwise

Examples:
  msb wait build
  msb wait build --format json | jq '.[0].reason'
  msb stop web & msb wait web")]
pub(super) struct Arguments {
    #[command(flatten)]
    selection: Selection,
}

/// How one ended.
#[derive(Debug, Serialize)]
struct End {
    name: String,
    status: SandboxStatus,
    reason: StopReason,
    exit_code: Option<i32>,
    signal: Option<i32>,
    at: String,
}

impl Line for End {
    fn line(&self) -> String {
        let machine = match self.reason {
            StopReason::Killed | StopReason::CreatorDied => 128 + libc::SIGKILL,
            _ => i32::from(self.status == SandboxStatus::Crashed),
        };
        let signal = self.signal.map(|signal| signal.saturating_add(128));
        self.exit_code.or(signal).unwrap_or(machine).to_string()
    }
}

/// Waits for them.
pub(super) fn execute(arguments: Arguments) -> anyhow::Result<u8> {
    block_on(arguments.selection.each("wait for", |sandbox| async move {
        let end = sandbox.wait_until_stopped().await?;
        Ok(End {
            name: end.name,
            status: end.status,
            reason: end.reason,
            exit_code: end.exit_code,
            signal: end.signal,
            at: utc::rfc3339(end.observed_at),
        })
    }))
}
