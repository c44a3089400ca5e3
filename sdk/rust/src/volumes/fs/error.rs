//! Why something cannot be done with the files of a volume.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

/// Something cannot be done with the files of a volume. Paths are as the caller gave them.
#[derive(Debug, thiserror::Error)]
pub enum VolumeFsError {
    /// The path is absolute, or leads out of the volume by `..` or a symbolic link.
    #[error("The path {path:?} escapes the volume")]
    PathEscape {
        /// The path.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("Nothing is at {path:?} in the volume")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// It names no entry of a directory: its last component is `.` or `..`, or it is the volume itself.
    #[error("{path:?} names no entry of a directory")]
    NotAnEntry {
        /// The path.
        path: PathBuf,
    },
    /// A FIFO, a device or a socket: opening it could wait for ever, or do something.
    #[error("{path:?} is no regular file")]
    NotRegular {
        /// The path.
        path: PathBuf,
    },
    /// The contents are not UTF-8.
    #[error("The contents of {path:?} are no text")]
    NotText {
        /// The path.
        path: PathBuf,
    },
    /// It would take too much memory.
    #[error("{path:?} has {size} {unit}, of which at most {limit} are read at once")]
    TooLarge {
        /// The path.
        path: PathBuf,
        /// How much.
        size: u64,
        /// Of what: `bytes` or `entries`.
        unit: &'static str,
        /// How much is possible.
        limit: u64,
    },
    /// A directory cannot be copied to a place beneath itself.
    #[error("{path:?} cannot be copied into itself")]
    IntoItself {
        /// The path.
        path: PathBuf,
    },
    /// Directories lie too deeply in each other to be copied.
    #[error("{path:?} has more than {limit} directories within each other")]
    TooDeep {
        /// The path.
        path: PathBuf,
        /// How many are possible.
        limit: usize,
    },
    /// The volume would hold more than its quota.
    #[error("{path:?} needs {needed} bytes, and the quota of {quota} bytes leaves {left}")]
    QuotaExceeded {
        /// The path.
        path: PathBuf,
        /// Bytes that are needed.
        needed: u64,
        /// Bytes that the volume may hold.
        quota: u64,
        /// Bytes that are left of them.
        left: u64,
    },
    /// The volume is a disk, whose files only a sandbox can reach.
    #[error("The files of the volume {name:?} are on a disk{}, and can be reached in a sandbox only", attached(*in_use))]
    Unsupported {
        /// The name of the volume.
        name: String,
        /// Whether a sandbox uses it.
        in_use: bool,
    },
    /// A system call failed.
    #[error("Failed to {action} {path:?} in the volume")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

fn attached(in_use: bool) -> &'static str {
    if in_use { " that a sandbox uses" } else { "" }
}

/// What the failure of a system call means for the entry at `path`.
pub(super) fn failed(
    action: &'static str,
    path: &Path,
) -> impl Fn(io::Error) -> VolumeFsError + Copy {
    move |source| match source.raw_os_error() {
        Some(libc::ENOENT) => VolumeFsError::NotFound {
            path: path.to_owned(),
        },
        _ => VolumeFsError::Io {
            action,
            path: path.to_owned(),
            source,
        },
    }
}

/// What the failure of a resolution beneath the volume means for `path`. Only there is `EXDEV` a path that leads out,
/// see openat2(2).
pub(super) fn unresolved(action: &'static str, path: &Path, error: Errno) -> VolumeFsError {
    match error {
        Errno::EXDEV => VolumeFsError::PathEscape {
            path: path.to_owned(),
        },
        error => failed(action, path)(error.into()),
    }
}
