//! The states of a sandbox, and how it ended.

use std::fmt;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::control::{MachineState, StopReason};

/// What a sandbox does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxStatus {
    /// Its guest is not up yet.
    Starting,
    /// Commands and files can be used.
    Running,
    /// Commands end, and none begins.
    Draining,
    /// Its processors are halted.
    Paused,
    /// Its guest shuts down.
    Stopping,
    /// It is not running, and can be started.
    Stopped,
    /// It ended by a failure: of its kernel, of the monitor, or by a kill of its process from outside. It can be started.
    Crashed,
}

impl SandboxStatus {
    /// `starting` to `crashed`.
    pub fn name(self) -> &'static str {
        match self {
            SandboxStatus::Starting => "starting",
            SandboxStatus::Running => "running",
            SandboxStatus::Draining => "draining",
            SandboxStatus::Paused => "paused",
            SandboxStatus::Stopping => "stopping",
            SandboxStatus::Stopped => "stopped",
            SandboxStatus::Crashed => "crashed",
        }
    }

    /// Whether it has a machine.
    pub fn is_alive(self) -> bool {
        !matches!(self, SandboxStatus::Stopped | SandboxStatus::Crashed)
    }

    /// Of a sandbox that ended for this reason.
    pub fn after(reason: StopReason) -> SandboxStatus {
        match reason {
            StopReason::Crashed | StopReason::StartFailed => SandboxStatus::Crashed,
            StopReason::Completed
            | StopReason::Stopped
            | StopReason::Killed
            | StopReason::Drained
            | StopReason::MaxDuration
            | StopReason::Idle
            | StopReason::CreatorDied => SandboxStatus::Stopped,
        }
    }
}

impl From<MachineState> for SandboxStatus {
    fn from(state: MachineState) -> SandboxStatus {
        match state {
            MachineState::Starting => SandboxStatus::Starting,
            MachineState::Running => SandboxStatus::Running,
            MachineState::Draining => SandboxStatus::Draining,
            MachineState::Paused => SandboxStatus::Paused,
            MachineState::Stopping => SandboxStatus::Stopping,
        }
    }
}

impl fmt::Display for SandboxStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// How a sandbox ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxStopResult {
    /// Its name.
    pub name: String,
    /// [`Stopped`](SandboxStatus::Stopped) or [`Crashed`](SandboxStatus::Crashed).
    pub status: SandboxStatus,
    /// Exit code of the sandbox's own process, if that ended it.
    pub exit_code: Option<i32>,
    /// Signal that ended the sandbox's own process.
    pub signal: Option<i32>,
    /// When it ended, as the machine's process noted, or whoever noticed that this process was gone.
    pub observed_at: SystemTime,
    /// Why it ended.
    pub reason: StopReason,
    /// Who says so: `machine`, its own process; or `host`, because that process could not tell any more.
    pub source: Option<String>,
    /// One sentence about it, if there is something to say, with the last lines of the guest kernel's log if it crashed.
    pub detail: Option<String>,
}
