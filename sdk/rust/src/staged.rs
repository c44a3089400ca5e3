//! Directories in which something is made that appears when it is complete.
//!
//! Who makes one keeps it locked (flock(2)) until it, or what is in it, is recorded or has its name. So one that is neither,
//! and that nobody keeps, is left over from somebody who died, and whoever makes the next removes it.

use std::ffi::{CString, OsStr, OsString};
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::identity::Id;

/// What names of directories in the making end with, beside the path that they are to have.
const PARTIAL: &str = ".partial";

/// How often a name is tried that somebody takes for a left-over.
const MAX_ATTEMPTS: u32 = 16;

/// Why such a directory cannot be made or used.
#[derive(Debug, thiserror::Error)]
#[error("Failed to {action} {path}")]
pub(crate) struct StagedError {
    /// What was attempted, in the infinitive.
    pub(crate) action: &'static str,
    /// On what.
    pub(crate) path: PathBuf,
    /// The reason.
    pub(crate) source: io::Error,
}

/// A directory that is kept locked by this process. It is removed when this is dropped, unless it was finished.
#[derive(Debug)]
pub(crate) struct Staged {
    pub(crate) id: Id,
    path: PathBuf,
    lock: File,
    is_finished: bool,
}

impl Staged {
    /// Makes one in `parent` whose name is its identity.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(crate) fn new(parent: &Path) -> Result<Staged, StagedError> {
        Staged::make(parent, |id| id.as_str().into())
    }

    /// Makes one beside `target`, whose name it is to get.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(crate) fn beside(target: &Path) -> Result<Staged, StagedError> {
        let (parent, prefix) = place(target)?;
        remove_left_overs(&parent, |name| {
            let rest = name.strip_prefix(prefix.to_str()?)?;
            Id::parse(rest.strip_suffix(PARTIAL)?)
        });
        Staged::make(&parent, |id| {
            let mut name = prefix.clone();
            name.push(id.as_str());
            name.push(PARTIAL);
            name
        })
    }

    fn make(parent: &Path, name: impl Fn(&Id) -> OsString) -> Result<Staged, StagedError> {
        for _ in 0..MAX_ATTEMPTS {
            let id = Id::generate().map_err(failed("read", Path::new("/dev/urandom")))?;
            let path = parent.join(name(&id));
            DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(failed("make a directory in", parent))?;
            match keep(&path) {
                Ok(Some(lock)) => {
                    return Ok(Staged {
                        id,
                        path,
                        lock,
                        is_finished: false,
                    });
                }
                // Somebody took it for a left-over before it was locked.
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(failed("lock", &path)(error)),
            }
        }
        let busy = io::ErrorKind::ResourceBusy.into();
        Err(failed("make a directory in", parent)(busy))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Makes its entries and its own durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(crate) fn sync(&self) -> Result<(), StagedError> {
        let parent = self.path.parent().unwrap_or(&self.path);
        self.lock
            .sync_all()
            .and_then(|()| File::open(parent)?.sync_all())
            .map_err(failed("write", &self.path))
    }

    /// Lets it stay where it is.
    pub(crate) fn finish(mut self) {
        self.is_finished = true;
    }

    /// Gives it the name `target`, durably. With `replace`, what is there is removed.
    ///
    /// # Errors
    /// [`AlreadyExists`](io::ErrorKind::AlreadyExists) without `replace`; as rename(2).
    pub(crate) fn publish(mut self, target: &Path, replace: bool) -> Result<(), StagedError> {
        let rename = |flags| renameat2(AT_FDCWD, &self.path, AT_FDCWD, target, flags);
        match rename(RenameFlags::RENAME_NOREPLACE) {
            Ok(()) => self.is_finished = true,
            Err(nix::errno::Errno::EEXIST) if replace => {
                // The old one has the name of the new one then, and is removed with it.
                rename(RenameFlags::RENAME_EXCHANGE)
                    .map_err(io::Error::from)
                    .map_err(failed("replace", target))?;
            }
            Err(error) => return Err(failed("create", target)(error.into())),
        }
        sync_parent(target)
    }

    /// Gives the file `name` in it the name `target`, durably, and removes what else is there. A file that had the name is
    /// replaced.
    ///
    /// # Errors
    /// As rename(2).
    pub(crate) fn publish_file(self, name: &str, target: &Path) -> Result<(), StagedError> {
        fs::rename(self.path.join(name), target).map_err(failed("create", target))?;
        sync_parent(target)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.is_finished {
            // What cannot be removed, the next one to make a snapshot removes.
            let _ = remove(&self.path);
        }
    }
}

/// Removes the directories in `parent` that `of` finds an identity in, and that nobody keeps. What cannot be removed is in
/// nobody's way.
fn remove_left_overs(parent: &Path, of: impl Fn(&str) -> Option<Id>) {
    for (path, _) in with_identity(parent, of).unwrap_or_default() {
        let _ = remove_left_over(&path);
    }
}

/// Removes a directory and all that is in it, unless somebody keeps it, who removes it as well. That is no error if it is
/// gone already.
///
/// # Errors
/// As unlink(2).
pub(crate) fn remove_left_over(path: &Path) -> io::Result<()> {
    match keep(path) {
        Ok(Some(_lock)) => remove(path),
        Ok(None) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The directories in `parent` that `of` finds an identity in.
///
/// # Errors
/// As readdir(3).
pub(crate) fn with_identity(
    parent: &Path,
    of: impl Fn(&str) -> Option<Id>,
) -> io::Result<Vec<(PathBuf, Id)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let id = entry.file_name().to_str().and_then(&of);
        found.extend(id.map(|id| (entry.path(), id)));
    }
    Ok(found)
}

/// Locks a directory; returns nothing if somebody keeps it, or it is gone or another by now.
///
/// # Errors
/// As open(2) and flock(2).
pub(crate) fn keep(path: &Path) -> io::Result<Option<File>> {
    let lock = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(path)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let same = |found: fs::Metadata| -> io::Result<bool> {
        let locked = lock.metadata()?;
        Ok((found.dev(), found.ino()) == (locked.dev(), locked.ino()))
    };
    Ok(same(fs::symlink_metadata(path)?)?.then_some(lock))
}

/// Removes a directory and all that is in it. That is no error if it is gone already.
///
/// # Errors
/// As unlink(2).
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    let name = CString::new(name.as_encoded_bytes())?;
    match File::open(parent).and_then(|parent| files::remove_tree(parent.as_fd(), &name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// The directory in which `target` is to be, and what names of those in the making begin with.
fn place(target: &Path) -> Result<(PathBuf, OsString), StagedError> {
    let name = target
        .file_name()
        .ok_or_else(|| failed("create", target)(io::ErrorKind::InvalidFilename.into()))?;
    let parent = match target.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(OsStr::new("."));
    Ok((parent.to_owned(), prefix))
}

/// Makes durable that `target` has its name.
fn sync_parent(target: &Path) -> Result<(), StagedError> {
    let parent = place(target)?.0;
    File::open(&parent)
        .and_then(|parent| parent.sync_all())
        .map_err(failed("write", &parent))
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StagedError {
    let path = path.to_owned();
    move |source| StagedError {
        action,
        path,
        source,
    }
}
