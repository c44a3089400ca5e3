//! What goes wrong with logs.

use std::io;
use std::path::{Path, PathBuf};

/// Why a log could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// A system call failed.
    #[error("Failed to {action} the log {}", path.display())]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Another process writes the log.
    #[error("The log {} is being written by another process", path.display())]
    InUse {
        /// Its directory.
        path: PathBuf,
    },
    /// A text is no cursor.
    #[error("{cursor:?} is no cursor of a log")]
    InvalidCursor {
        /// The text.
        cursor: String,
    },
    /// A cursor belongs to another log, perhaps to one of a sandbox that had the same name.
    #[error("The cursor {cursor} belongs to another log")]
    ForeignCursor {
        /// The cursor.
        cursor: String,
    },
    /// Two options say where to start.
    #[error("A log is read since a moment or from a cursor, not both")]
    TwoStarts,
}

/// For `map_err`: that `action` failed on `path`.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    let path = path.to_owned();
    move |source| LogError::Io {
        action,
        path,
        source,
    }
}
