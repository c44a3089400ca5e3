//! Why something cannot be done with files beneath a directory.

use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::{MAX_ENTRIES, MAX_READ};

/// Something cannot be done with files beneath a directory. Paths are as the caller gave them.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// The path is absolute, or leads out of the directory by `..` or a symbolic link.
    #[error("The path {path:?} leads out of the directory")]
    PathEscape {
        /// The path.
        path: PathBuf,
    },
    /// Nothing is there.
    #[error("Nothing is at {path:?}")]
    NotFound {
        /// The path.
        path: PathBuf,
    },
    /// It names no entry of a directory: its last component is `.` or `..`, or it is the directory itself.
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
    /// The file is too large to be read.
    #[error("{path:?} has {size} bytes, of which at most {MAX_READ} are read")]
    FileTooLarge {
        /// The path.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// The directory is too large to be listed.
    #[error("{path:?} has more than {MAX_ENTRIES} entries")]
    DirectoryTooLarge {
        /// The path.
        path: PathBuf,
        /// How many were found.
        count: u64,
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
    /// Its name means something else in a layer of an image: it begins with `.wh.`.
    #[error("{path:?} has a name that means a deletion in a layer of an image")]
    ReservedName {
        /// The path.
        path: PathBuf,
    },
    /// Contents of it lie beneath the layer (`metacopy` of overlayfs), or it is a deletion of a kind that layers of images
    /// do not know.
    #[error("{path:?} cannot be told in a layer of an image")]
    NotInLayer {
        /// The path.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("Failed to {action} {path:?}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// The path.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// What the failure of a system call means for the entry at `path`.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl Fn(io::Error) -> FilesError + Copy {
    move |source| match source.raw_os_error() {
        Some(libc::ENOENT) => FilesError::NotFound {
            path: path.to_owned(),
        },
        _ => FilesError::Io {
            action,
            path: path.to_owned(),
            source,
        },
    }
}

/// What the failure of a resolution beneath the directory means for `path`. Only there is `EXDEV` a path that leads out,
/// see openat2(2).
pub(crate) fn unresolved(action: &'static str, path: &Path, error: Errno) -> FilesError {
    match error {
        Errno::EXDEV => FilesError::PathEscape {
            path: path.to_owned(),
        },
        error => failed(action, path)(error.into()),
    }
}
