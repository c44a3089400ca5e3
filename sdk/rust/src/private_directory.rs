//! Directories that nobody but this user can change.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::geteuid;

/// Why a directory for this user alone could not be made or used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateDirectoryError {
    /// Others could replace what is in it.
    #[error("{path} belongs to another user, or others may write to it")]
    NotPrivate {
        /// The directory.
        path: PathBuf,
    },
    /// A system call failed.
    #[error("Failed to {action} {path}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Makes `path` for this user alone; what exists must be so.
///
/// # Errors
/// When it cannot be made, or others could change what is in it.
pub(crate) fn make_private_directory(path: &Path) -> Result<(), PrivateDirectoryError> {
    let failed = |action| {
        let path = path.to_owned();
        move |source| PrivateDirectoryError::Io {
            action,
            path,
            source,
        }
    };
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(failed("create"))?;
    let metadata = fs::metadata(path).map_err(failed("read"))?;
    let others_write = metadata.permissions().mode() & 0o022 != 0;
    if metadata.uid() != geteuid().as_raw() || others_write {
        return Err(PrivateDirectoryError::NotPrivate {
            path: path.to_owned(),
        });
    }
    Ok(())
}
