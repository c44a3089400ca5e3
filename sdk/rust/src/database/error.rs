//! Why the database cannot be used.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::ErrorCode;

use crate::private_directory::PrivateDirectoryError;

/// The database cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// Its directory cannot be made, or others could replace what is in it.
    #[error(transparent)]
    Directory(#[from] PrivateDirectoryError),
    /// A later version of this program has used it.
    #[error("The database {path} has version {found}, and this program knows none after {known}")]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The version that this program makes.
        known: i64,
    },
    /// It is no database, or a damaged one.
    #[error("The database {path} is damaged")]
    Damaged {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// What it says of one sandbox makes no sense.
    #[error("What the database {path} says of the sandbox {name:?} cannot be read")]
    Record {
        /// The database.
        path: PathBuf,
        /// Name of the sandbox, as it is recorded.
        name: String,
        /// What makes no sense.
        source: rusqlite::Error,
    },
    /// Another program did not let go of it.
    #[error("Another program has kept the database {path} locked for too long")]
    Locked {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// It can be read at most.
    #[error("The database {path} cannot be written")]
    ReadOnly {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file beside it that keeps programs from changing its form at the same time cannot be locked.
    #[error("Failed to lock {path}")]
    Lock {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Something else, the disk being full for example.
    #[error("The database {path} failed")]
    Failed {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl DatabaseError {
    /// What an error of SQLite means for the database at `path`.
    pub(super) fn new(path: &Path, source: rusqlite::Error) -> DatabaseError {
        let path = path.to_owned();
        if matches!(
            source,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        ) {
            // No program of this project writes such values.
            return DatabaseError::Damaged { path, source };
        }
        match source.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                DatabaseError::Damaged { path, source }
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                DatabaseError::Locked { path, source }
            }
            // In WAL mode even a reader writes, and cannot open what it has to write.
            Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                DatabaseError::ReadOnly { path, source }
            }
            _ => DatabaseError::Failed { path, source },
        }
    }
}
