//! Why something cannot be done with the files of a volume.

use std::io;
use std::path::PathBuf;

use files::{FilesError, MAX_ENTRIES, MAX_READ};

use super::VolumeMachineError;

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
        limit: u64,
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
    /// The volume is a disk that something else uses: a sandbox, or another call for its files.
    #[error(
        "The files of the volume {name:?} are on a disk that is in use, and can be reached there only"
    )]
    Unsupported {
        /// The name of the volume.
        name: String,
    },
    /// The machine that reaches the files of a disk failed.
    #[error("The disk of the volume {name:?} cannot be reached")]
    Machine {
        /// The name of the volume.
        name: String,
        /// Why.
        source: Box<VolumeMachineError>,
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

impl From<FilesError> for VolumeFsError {
    fn from(error: FilesError) -> VolumeFsError {
        match error {
            FilesError::PathEscape { path } => VolumeFsError::PathEscape { path },
            FilesError::NotFound { path } => VolumeFsError::NotFound { path },
            FilesError::NotAnEntry { path } => VolumeFsError::NotAnEntry { path },
            FilesError::NotRegular { path } => VolumeFsError::NotRegular { path },
            FilesError::FileTooLarge { path, size } => VolumeFsError::TooLarge {
                path,
                size,
                unit: "bytes",
                limit: MAX_READ,
            },
            FilesError::DirectoryTooLarge { path, count } => VolumeFsError::TooLarge {
                path,
                size: count,
                unit: "entries",
                limit: MAX_ENTRIES,
            },
            FilesError::IntoItself { path } => VolumeFsError::IntoItself { path },
            FilesError::TooDeep { path, limit } => VolumeFsError::TooDeep { path, limit },
            // Only whoever asks for a layer gets these.
            FilesError::ReservedName { path } | FilesError::NotInLayer { path } => {
                VolumeFsError::Io {
                    action: "read",
                    path,
                    source: io::ErrorKind::InvalidData.into(),
                }
            }
            FilesError::Io {
                action,
                path,
                source,
            } => VolumeFsError::Io {
                action,
                path,
                source,
            },
        }
    }
}
