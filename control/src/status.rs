//! The state of a machine, as it says itself.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What a living machine does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MachineState {
    /// The guest is not up yet.
    Starting,
    /// Sessions come and go.
    Running,
    /// Sessions end, and none begins.
    Draining,
    /// Its processors are halted.
    Paused,
    /// The guest shuts down.
    Stopping,
}

impl fmt::Display for MachineState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            MachineState::Starting => "starting",
            MachineState::Running => "running",
            MachineState::Draining => "draining",
            MachineState::Paused => "paused",
            MachineState::Stopping => "stopping",
        })
    }
}

/// The contents of the file `status` in a run directory, in JSON. It is replaced as a whole, and means something only
/// as long as the directory's `lock` is locked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineStatus {
    /// The state.
    pub state: MachineState,
    /// Identity of the sandbox, if it is recorded: one of the same name has another.
    #[serde(default)]
    pub sandbox: Option<String>,
    /// Process id of the machine's process.
    pub pid: u32,
    /// When the guest was up: milliseconds since 1970-01-01 00:00 UTC.
    pub ready_at: Option<u64>,
}
