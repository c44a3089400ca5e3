//! Where a tree is written: directories beneath its beginning, reached without being led out.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag};
use nix::sys::stat::{FileStat, Mode, SFlag, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::node_path::NodePath;
use crate::Files;
use crate::beneath::{Entry, RelativePath, open_resolved};
use crate::error::{FilesError, failed, unresolved};

/// How often something is put out of the way that has appeared again.
const MAX_ATTEMPTS: u32 = 16;

/// The place of a tree.
#[derive(Debug)]
pub(super) struct Target<'f> {
    files: &'f Files,
    /// What the caller calls the beginning of the tree.
    base: RelativePath,
    /// The beginning, once it is known to be a directory.
    directory: Option<OwnedFd>,
}

impl<'f> Target<'f> {
    pub(super) fn new(files: &'f Files, base: &Path) -> Result<Target<'f>, FilesError> {
        Ok(Target {
            files,
            base: files.path(base)?,
            directory: None,
        })
    }

    /// The entry that the node at `path` is to be.
    ///
    /// # Errors
    /// If its directory cannot be reached.
    pub(super) fn entry(&mut self, path: &NodePath) -> Result<Entry, FilesError> {
        match path.split() {
            None => self.files.root.entry("write", &self.base),
            Some((parent, name)) => {
                let directory = self.directory(&parent)?;
                Ok(Entry { directory, name })
            }
        }
    }

    /// Opens the directory at `path`, and makes those on the way that are missing. The beginning itself must be there.
    ///
    /// # Errors
    /// If a link or something else is in the way.
    pub(super) fn directory(&mut self, path: &NodePath) -> Result<OwnedFd, FilesError> {
        match self.open(path) {
            Err(Errno::ENOENT) if !path.as_bytes().is_empty() => {}
            result => return result.map_err(|error| self.unresolved(path, error)),
        }
        let mut parent = self.directory_of_the_beginning(path)?;
        for prefix in path.prefixes() {
            let Some((_, name)) = prefix.split() else {
                break;
            };
            parent = match self.open(&prefix) {
                Err(Errno::ENOENT) => {
                    crate::make_directory(&parent, &name)
                        .map_err(|error| self.failed(&prefix, error))?;
                    self.open(&prefix)
                        .map_err(|error| self.unresolved(&prefix, error))?
                }
                result => result.map_err(|error| self.unresolved(&prefix, error))?,
            };
        }
        Ok(parent)
    }

    fn directory_of_the_beginning(&mut self, path: &NodePath) -> Result<OwnedFd, FilesError> {
        self.open(&NodePath::default())
            .map_err(|error| self.unresolved(path, error))
    }

    /// Opens the directory at `path`. Links on the way are followed if they cannot lead out, else they are errors: what a
    /// stream has made must not lead it to what was there before.
    fn open(&mut self, path: &NodePath) -> Result<OwnedFd, Errno> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        if self.files.root.is_root() {
            let path = [self.base.as_bytes(), b"/", path.as_bytes()].concat();
            let path = CString::new(path).map_err(|_| Errno::EINVAL)?;
            return self.files.root.resolve(&path, flags, Mode::empty());
        }
        if self.directory.is_none() {
            let base = CString::new(self.base.as_bytes()).map_err(|_| Errno::EINVAL)?;
            self.directory = Some(self.files.root.resolve(&base, flags, Mode::empty())?);
        }
        let Some(directory) = &self.directory else {
            return Err(Errno::ENOENT);
        };
        if path.as_bytes().is_empty() {
            return directory.try_clone().map_err(|_| Errno::EMFILE);
        }
        let how = OpenHow::new()
            .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        let path = CString::new(path.as_bytes()).map_err(|_| Errno::EINVAL)?;
        open_resolved(directory.as_fd(), &path, how)
    }

    /// What the caller calls a node.
    pub(super) fn shown(&self, path: &NodePath) -> std::path::PathBuf {
        match path.as_bytes() {
            b"" => self.base.given().to_owned(),
            _ => self.base.given().join(path.as_path()),
        }
    }

    pub(super) fn failed(&self, path: &NodePath, error: Errno) -> FilesError {
        failed("write", &self.shown(path))(error.into())
    }

    fn unresolved(&self, path: &NodePath, error: Errno) -> FilesError {
        unresolved("write", &self.shown(path), error)
    }
}

/// Makes `name` of `directory` with `make`, which fails with `EEXIST` if something is there, and removes what is there
/// unless it is a directory.
///
/// # Errors
/// Those of `make`; as unlinkat(2), `EISDIR` of a directory.
pub(super) fn put<T>(
    directory: BorrowedFd<'_>,
    name: &CStr,
    mut make: impl FnMut() -> Result<T, Errno>,
) -> Result<T, Errno> {
    for _ in 0..MAX_ATTEMPTS {
        match make() {
            Err(Errno::EEXIST) => {}
            result => return result,
        }
        match unlinkat(directory, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(error) => return Err(error),
        }
    }
    Err(Errno::EEXIST)
}

/// What is at `name` itself.
pub(super) fn status(directory: BorrowedFd<'_>, name: &CStr) -> Result<FileStat, Errno> {
    fstatat(directory, name, nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW)
}

/// The type in a `st_mode`.
pub(super) fn file_type(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}
