//! Errors of files, of the guest and of the host.

use std::path::{Path, PathBuf};

use files::FilesError;

use crate::error::MicrosandboxError;

/// What is wrong with files of the guest, whose paths begin at `/`.
pub(in crate::sandbox) fn in_guest(error: FilesError) -> MicrosandboxError {
    from_files(error, Path::new("/"))
}

/// What is wrong with files of the host beneath `directory`.
pub(super) fn on_host(error: FilesError, directory: &Path) -> MicrosandboxError {
    from_files(error, directory)
}

fn from_files(error: FilesError, directory: &Path) -> MicrosandboxError {
    let error = placed(error, directory);
    let message = match &error {
        FilesError::NotFound { path } => {
            return MicrosandboxError::PathNotFound { path: path.clone() };
        }
        // There is no field for the source.
        FilesError::Io { source, .. } => format!("{error}: {source}"),
        error => error.to_string(),
    };
    let (path, errno) = match error {
        FilesError::Io { path, source, .. } => (path, source.raw_os_error().unwrap_or(0)),
        FilesError::PathEscape { path }
        | FilesError::NotFound { path }
        | FilesError::NotAnEntry { path }
        | FilesError::NotRegular { path }
        | FilesError::FileTooLarge { path, .. }
        | FilesError::DirectoryTooLarge { path, .. }
        | FilesError::IntoItself { path }
        | FilesError::TooDeep { path, .. }
        | FilesError::ReservedName { path }
        | FilesError::NotInLayer { path } => (path, 0),
    };
    MicrosandboxError::Fs {
        path,
        errno,
        message,
    }
}

/// The same error with the whole path.
fn placed(mut error: FilesError, directory: &Path) -> FilesError {
    let (FilesError::PathEscape { path }
    | FilesError::NotFound { path }
    | FilesError::NotAnEntry { path }
    | FilesError::NotRegular { path }
    | FilesError::FileTooLarge { path, .. }
    | FilesError::DirectoryTooLarge { path, .. }
    | FilesError::IntoItself { path }
    | FilesError::TooDeep { path, .. }
    | FilesError::ReservedName { path }
    | FilesError::NotInLayer { path }
    | FilesError::Io { path, .. }) = &mut error;
    // Not joined: that of an empty path would end in a slash.
    *path = match path.as_os_str().is_empty() {
        true => directory.to_owned(),
        false => directory.join(&*path),
    };
    error
}

/// What went wrong beyond system calls.
pub(super) fn odd(path: impl Into<PathBuf>, message: impl Into<String>) -> MicrosandboxError {
    MicrosandboxError::Fs {
        path: path.into(),
        errno: 0,
        message: message.into(),
    }
}
