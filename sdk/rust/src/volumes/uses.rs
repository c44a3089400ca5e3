//! Who uses a volume: a file in `uses/` for each sandbox, which holds its name and whether it writes, and is locked
//! (flock(2)) as long as the sandbox uses the volume. A file that nobody has locked is a left-over.
//!
//! All of it happens while the caller holds the lock of the directory of the volumes.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::VolumeError;
use super::directory::{Changes, VolumeDirectory};
use super::error::failed;
use super::record::Id;

/// Most bytes of a file that are read: a name is shorter.
const MAX_FILE: u64 = 1024;

/// What the file of one that writes begins with.
const WRITES: &str = "rw ";
/// What the file of one that reads begins with.
const READS: &str = "ro ";

/// One sandbox that uses a volume.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Use {
    pub(super) sandbox: String,
    pub(super) writes: bool,
}

/// Begins one. It lasts until the last descriptor of the file that is returned is closed.
///
/// # Errors
/// When the file cannot be made.
pub(super) fn begin(
    directory: &VolumeDirectory,
    new: &Use,
    _changes: &Changes,
) -> Result<File, VolumeError> {
    let uses = directory.uses();
    let id = Id::generate().map_err(failed("read", Path::new("/dev/urandom")))?;
    let path = uses.join(id.as_str());
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(failed("create", &path))?;
    let prefix = if new.writes { WRITES } else { READS };
    file.lock()
        .and_then(|()| write!(file, "{prefix}{}", new.sandbox))
        .map_err(failed("write", &path))?;
    Ok(file)
}

/// Those that last, by the names of the sandboxes. Removes the files of the others.
///
/// # Errors
/// When the files cannot be read.
pub(super) fn current(
    directory: &VolumeDirectory,
    _changes: &Changes,
) -> Result<Vec<Use>, VolumeError> {
    let uses = directory.uses();
    let entries = match fs::read_dir(&uses) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        result => result.map_err(failed("read", &uses))?,
    };
    let mut current = Vec::new();
    for entry in entries {
        let path = entry.map_err(failed("read", &uses))?.path();
        current.extend(examine(&path).map_err(failed("read", &path))?);
    }
    current.sort_by(|one, other| one.sandbox.cmp(&other.sandbox));
    Ok(current)
}

fn examine(path: &Path) -> io::Result<Option<Use>> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path)?;
    match file.try_lock() {
        Ok(()) => {
            fs::remove_file(path)?;
            return Ok(None);
        }
        Err(TryLockError::WouldBlock) => {}
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text)?;
    let (writes, sandbox) = match text.strip_prefix(READS) {
        Some(sandbox) => (false, sandbox),
        None => (true, text.strip_prefix(WRITES).unwrap_or(&text)),
    };
    Ok(Some(Use {
        sandbox: sandbox.to_owned(),
        writes,
    }))
}
