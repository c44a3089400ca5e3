//! How a machine ended.

use protocol::ExitStatus;
use serde::{Deserialize, Serialize};

/// How a machine ended: what its process leaves in the file `ended` of the sandbox's directory, in JSON, before the lock
/// of its run directory is free. A process that was killed leaves none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Why.
    pub reason: StopReason,
    /// How the sandbox's own process ended, if it has one and that came first.
    pub exit: Option<Exit>,
    /// One sentence about it, if there is something to say: the kernel's last words, what the monitor could not do.
    pub detail: Option<String>,
    /// Last lines of the guest kernel's log, if it crashed.
    pub console: Option<String>,
    /// Whether the guest had synced and unmounted everything.
    pub clean: bool,
    /// Milliseconds since 1970-01-01 00:00 UTC.
    pub at: u64,
}

/// Why a machine ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StopReason {
    /// Its own process ended, or the guest shut itself down.
    Completed,
    /// Somebody asked for it.
    Stopped,
    /// Somebody ended it by force, or it did not stop in time.
    Killed,
    /// It was drained.
    Drained,
    /// Its time was over.
    MaxDuration,
    /// Nobody used it for long enough.
    Idle,
    /// The guest or the monitor failed, or the machine's process was killed.
    Crashed,
    /// Its creator ended.
    CreatorDied,
    /// It did not come up.
    StartFailed,
}

/// Exit code or signal of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Exit {
    /// It called exit(3) with this code.
    Code(u8),
    /// This signal ended it.
    Signal(u8),
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Exit {
        match status {
            ExitStatus::Code(code) => Exit::Code(code),
            ExitStatus::Signal(signal) => Exit::Signal(signal),
        }
    }
}
