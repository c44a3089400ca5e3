//! What is answered: what was found of a file, and why something was not done.

use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use files::{EntryKind, FileEntry, FilesError};
use protocol::{Bytes, FileFailure, FileKind, FileProblem, FileStatus};

/// What is told about an entry of a directory.
pub(super) fn status(entry: FileEntry) -> FileStatus {
    let (modified_s, modified_ns) = timestamp(entry.modified);
    FileStatus {
        name: Bytes(entry.name.into_vec()),
        kind: match entry.kind {
            EntryKind::File => FileKind::File,
            EntryKind::Directory => FileKind::Directory,
            EntryKind::Symlink => FileKind::Symlink,
            EntryKind::Other => FileKind::Other,
        },
        size: entry.size,
        mode: entry.mode,
        modified_s,
        modified_ns,
    }
}

/// Seconds since 1970, rounded down, and the nanoseconds to be added.
fn timestamp(time: SystemTime) -> (i64, u32) {
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (seconds(after.as_secs()), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let whole = seconds(before.as_secs()).saturating_neg();
            match before.subsec_nanos() {
                0 => (whole, 0),
                part => (
                    whole.saturating_sub(1),
                    1_000_000_000_u32.saturating_sub(part),
                ),
            }
        }
    }
}

/// Why a request was not carried out.
pub(super) fn failure(error: FilesError) -> FileFailure {
    let (path, problem) = match error {
        FilesError::PathEscape { path } => (path, FileProblem::Escape),
        FilesError::NotFound { path } => (path, FileProblem::NotFound),
        FilesError::NotAnEntry { path } => (path, FileProblem::NotAnEntry),
        FilesError::NotRegular { path } => (path, FileProblem::NotRegular),
        FilesError::FileTooLarge { path, size } => (path, FileProblem::TooManyBytes(size)),
        FilesError::DirectoryTooLarge { path, count } => (path, FileProblem::TooManyEntries(count)),
        FilesError::IntoItself { path } => (path, FileProblem::IntoItself),
        FilesError::TooDeep { path, limit } => (path, FileProblem::TooDeep(limit)),
        FilesError::ReservedName { path } => (path, FileProblem::ReservedName),
        FilesError::NotInLayer { path } => (path, FileProblem::NotInLayer),
        FilesError::Io { path, source, .. } => {
            // Without a number it is a zero byte in a path.
            let number = source.raw_os_error().unwrap_or(libc::EINVAL);
            (path, FileProblem::Errno(number))
        }
    };
    FileFailure {
        path: to_bytes(path),
        problem,
    }
}

fn to_bytes(path: PathBuf) -> Bytes {
    Bytes(path.into_os_string().into_vec())
}
