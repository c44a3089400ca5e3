//! What an agent says of files, made ours. Nothing that it says is believed: names are checked.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use files::{EntryKind, FileEntry, FilesError};
use protocol::{Bytes, FileFailure, FileKind, FileProblem, FileStatus};

/// Longest name of a file, in bytes: that of a FUSE file system (`FUSE_NAME_MAX`); others have 255.
const MAX_NAME: usize = 1024;

/// A path as requests have it.
pub(crate) fn bytes(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

/// The same path, as it is shown.
pub(crate) fn path(bytes: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(bytes.to_vec()))
}

/// The name of an entry of a directory, which callers will put into paths.
///
/// # Errors
/// The name, if no file can be named so.
pub(crate) fn check_name(status: &FileStatus) -> Result<OsString, OsString> {
    let bytes = &status.name.0;
    let name = OsString::from_vec(bytes.clone());
    let is_name = !matches!(&bytes[..], b"" | b"." | b"..") && !bytes.contains(&b'/');
    match is_name && bytes.len() <= MAX_NAME && !bytes.contains(&0) {
        true => Ok(name),
        false => Err(name),
    }
}

/// What is told about a file of this name.
pub(crate) fn entry(name: OsString, status: &FileStatus) -> FileEntry {
    FileEntry {
        name,
        kind: match status.kind {
            FileKind::File => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::Other => EntryKind::Other,
        },
        size: status.size,
        mode: status.mode & 0o7777,
        modified: time(status.modified_s, status.modified_ns),
    }
}

/// A time that somebody may have set to anything.
pub(crate) fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds {
        0.. => UNIX_EPOCH.checked_add(whole),
        _ => UNIX_EPOCH.checked_sub(whole),
    };
    let part = Duration::from_nanos(nanoseconds.into());
    time.and_then(|time| time.checked_add(part))
        .unwrap_or(UNIX_EPOCH)
}

/// The error that the agent found; about `path` if it does not name one.
pub(crate) fn files_error(action: &'static str, path: &Path, failure: FileFailure) -> FilesError {
    let path = match failure.path.0 {
        named if named.is_empty() => path.to_owned(),
        named => PathBuf::from(OsString::from_vec(named)),
    };
    match failure.problem {
        FileProblem::Errno(number) => FilesError::Io {
            action,
            path,
            source: io::Error::from_raw_os_error(number),
        },
        FileProblem::Escape => FilesError::PathEscape { path },
        FileProblem::NotFound => FilesError::NotFound { path },
        FileProblem::NotAnEntry => FilesError::NotAnEntry { path },
        FileProblem::NotRegular => FilesError::NotRegular { path },
        FileProblem::TooManyBytes(size) => FilesError::FileTooLarge { path, size },
        FileProblem::TooManyEntries(count) => FilesError::DirectoryTooLarge { path, count },
        FileProblem::IntoItself => FilesError::IntoItself { path },
        FileProblem::TooDeep(limit) => FilesError::TooDeep { path, limit },
        FileProblem::ReservedName => FilesError::ReservedName { path },
        FileProblem::NotInLayer => FilesError::NotInLayer { path },
    }
}
