//! How a machine ended.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use protocol::ExitStatus;
use serde::{Deserialize, Serialize};

/// Name of the file in the directory of a sandbox.
const FILE: &str = "ended";

/// Name of the same file in the making.
const BESIDE: &str = ".ended";

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

/// The record of a machine's end cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[error("Failed to {action} {path}")]
pub struct EndedError {
    /// What was attempted, in the infinitive.
    action: &'static str,
    /// On what.
    path: PathBuf,
    /// The reason.
    source: io::Error,
}

impl Ended {
    /// Leaves the record in `directory`, durably and as a whole: after a crash there is this one, or the one before, or none.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, directory: &Path) -> Result<(), EndedError> {
        let beside = directory.join(BESIDE);
        let failed = |source| EndedError {
            action: "write",
            path: beside.clone(),
            source,
        };
        let text = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)
            .map_err(failed)?;
        file.write_all(&text).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        fs::rename(&beside, directory.join(FILE)).map_err(failed)?;
        File::open(directory)
            .and_then(|directory| directory.sync_all())
            .map_err(failed)
    }

    /// The record in `directory`; `None` if there is none, or none that can be understood.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn read(directory: &Path) -> Result<Option<Ended>, EndedError> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(text) => Ok(serde_json::from_slice(&text).ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(source) => Err(EndedError {
                action: "read",
                path,
                source,
            }),
        }
    }

    /// Removes the record from `directory`, for the next machine.
    ///
    /// # Errors
    /// When there is one that cannot be removed.
    pub fn remove(directory: &Path) -> Result<(), EndedError> {
        let path = directory.join(FILE);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            result => result.map_err(|source| EndedError {
                action: "remove",
                path,
                source,
            }),
        }
    }
}

/// For a log: one line.
impl fmt::Display for Ended {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "the machine ended: {}", self.reason)?;
        match self.exit {
            Some(Exit::Code(code)) => write!(formatter, ", exit code {code}")?,
            Some(Exit::Signal(signal)) => write!(formatter, ", signal {signal}")?,
            None => {}
        }
        match &self.detail {
            Some(detail) => write!(formatter, ", {detail}"),
            None => Ok(()),
        }
    }
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

impl fmt::Display for StopReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            StopReason::Completed => "completed",
            StopReason::Stopped => "stopped",
            StopReason::Killed => "killed",
            StopReason::Drained => "drained",
            StopReason::MaxDuration => "max-duration",
            StopReason::Idle => "idle",
            StopReason::Crashed => "crashed",
            StopReason::CreatorDied => "creator-died",
            StopReason::StartFailed => "start-failed",
        })
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_again() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Ended::read(directory.path()).unwrap(), None);
        let mut ended = Ended {
            reason: StopReason::Crashed,
            exit: Some(Exit::Signal(9)),
            detail: Some("its kernel panicked: \u{fffd}".to_owned()),
            console: Some("line\n".to_owned()),
            clean: false,
            at: 1,
        };
        ended.write(directory.path()).unwrap();
        ended.reason = StopReason::MaxDuration;
        ended.write(directory.path()).unwrap();
        assert_eq!(Ended::read(directory.path()).unwrap(), Some(ended));
        Ended::remove(directory.path()).unwrap();
        Ended::remove(directory.path()).unwrap();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
