//! How a sandbox ended, for its users.

use std::time::{Duration, UNIX_EPOCH};

use super::{SandboxStatus, SandboxStopResult};
use crate::control::Exit;
use crate::registry::End;

/// The result of `end`.
pub(super) fn result_of(name: &str, end: End) -> SandboxStopResult {
    let ended = end.ended;
    let (exit_code, signal) = match ended.exit {
        Some(Exit::Code(code)) => (Some(i32::from(code)), None),
        Some(Exit::Signal(signal)) => (None, Some(i32::from(signal))),
        None => (None, None),
    };
    let detail = match (ended.detail, ended.console) {
        (Some(detail), Some(console)) => Some(format!("{detail}\n{console}")),
        (detail, console) => detail.or(console),
    };
    SandboxStopResult {
        name: name.to_owned(),
        status: SandboxStatus::after(ended.reason),
        exit_code,
        signal,
        // A time that cannot be has been written by nobody of ours.
        observed_at: UNIX_EPOCH
            .checked_add(Duration::from_millis(ended.at))
            .unwrap_or(UNIX_EPOCH),
        reason: ended.reason,
        source: Some(end.source.name().to_owned()),
        detail,
    }
}
