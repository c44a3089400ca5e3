//! The files of a snapshot, in a directory of their own: `snapshot.json` and `upper.img`.
//!
//! Somebody else may have made the directory, so nothing in it is followed: a link could lead to any file of this user.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use image::Digest;

use super::descriptor::{MAX_BYTES, Snapshot};
use super::error::failed;
use super::{Progress, SnapshotError, integrity};

/// What the snapshot says of itself.
pub(super) const DESCRIPTOR: &str = "snapshot.json";
/// The layer of changes.
pub(super) const UPPER: &str = "upper.img";

/// Reads what the snapshot in a directory says of itself.
///
/// # Errors
/// [`SnapshotError::SnapshotNotFound`], [`SnapshotError::Invalid`], [`SnapshotError::Newer`].
pub(super) fn read(directory: &Path) -> Result<Snapshot, SnapshotError> {
    let invalid = |reason: &str| SnapshotError::Invalid {
        path: directory.to_owned(),
        reason: reason.to_owned(),
    };
    let path = directory.join(DESCRIPTOR);
    let file = match open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(invalid("it is no directory"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            if directory.exists() {
                return Err(invalid("it has no snapshot.json"));
            }
            return Err(SnapshotError::SnapshotNotFound {
                snapshot: directory.display().to_string(),
            });
        }
        Err(error) => return Err(failed("open", &path)(error)),
    };
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1)
        .read_to_end(&mut text)
        .map_err(failed("read", &path))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(invalid("its snapshot.json is too long"));
    }
    Snapshot::parse(&text, &path)
}

/// Writes what the snapshot says of itself, durably.
///
/// # Errors
/// As the system calls.
pub(super) fn write(directory: &Path, snapshot: &Snapshot) -> Result<(), SnapshotError> {
    let path = directory.join(DESCRIPTOR);
    let mut file = create(&path)?;
    writeln!(file, "{}", snapshot.to_json())
        .and_then(|()| file.sync_all())
        .map_err(failed("write", &path))
}

/// Makes a file that only this user can use.
///
/// # Errors
/// As open(2).
pub(super) fn create(path: &Path) -> Result<File, SnapshotError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))
}

/// Opens the layer of a snapshot.
///
/// # Errors
/// [`SnapshotError::Invalid`] unless it is a file of the right size.
pub(super) fn open_upper(directory: &Path, snapshot: &Snapshot) -> Result<File, SnapshotError> {
    let path = directory.join(UPPER);
    let file = open(&path).map_err(failed("open", &path))?;
    let size = file.metadata().map_err(failed("read", &path))?.len();
    let expected = snapshot.descriptor.upper.size_bytes;
    if size != expected {
        return Err(SnapshotError::Invalid {
            path,
            reason: format!("it has {size} bytes instead of {expected}"),
        });
    }
    Ok(file)
}

/// Reads the whole layer of a snapshot, and compares it with what was copied.
///
/// # Errors
/// [`SnapshotError::Damaged`]; as [`open_upper`].
pub(super) fn verify(
    directory: &Path,
    snapshot: &Snapshot,
    progress: Progress<'_>,
) -> Result<(), SnapshotError> {
    let path = directory.join(UPPER);
    let upper = open_upper(directory, snapshot)?;
    let found = integrity::digest(&upper, progress).map_err(failed("read", &path))?;
    compare(&path, &snapshot.digest, found)
}

/// Whether a digest is the right one.
///
/// # Errors
/// [`SnapshotError::Damaged`].
pub(super) fn compare(path: &Path, expected: &Digest, found: Digest) -> Result<(), SnapshotError> {
    if *expected == found {
        return Ok(());
    }
    Err(SnapshotError::Damaged {
        path: path.to_owned(),
        expected: *expected,
        found,
    })
}

/// Opens a regular file for reading.
fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    Ok(file)
}
