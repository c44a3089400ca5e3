//! Files beneath a directory, reached while somebody hostile changes them: names, links and what directories become
//! between two system calls are a guest's.
//!
//! See `beneath` for how paths are resolved. Nothing but regular files is ever opened for reading or writing. The host
//! uses this for the directories of volumes, the guest's agent for disks.

#![deny(clippy::unwrap_used)]

mod attributes;
mod beneath;
mod copying;
mod entries;
mod entry;
mod error;
mod extended_attributes;
mod layer;
#[cfg(test)]
mod race_tests;
mod removal;
mod room;
#[cfg(test)]
mod tests;
mod tree;
mod usage;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

pub use entry::{EntryKind, FileEntry};
pub use error::FilesError;
pub use layer::{Layer, LayerSink};
pub use removal::remove_tree;
pub use room::Room;
pub use tree::{Skipped, TreePolicy, TreeReport, TreeSink, TreeWriter, check_node_path};
pub use usage::used_bytes;

use beneath::{Entry, RelativePath, Root, check_regular, reopen};
use error::{failed, unresolved};

/// Most bytes of a file that are read: one can make a file that only seems to be large.
pub const MAX_READ: u64 = 1 << 30;

/// Most entries of a directory that are listed.
pub const MAX_ENTRIES: u64 = 1 << 20;

/// Permissions of new files.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// Permissions of new directories.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// The files beneath a directory. Paths are relative to it; symbolic links are followed as long as they lead nowhere else.
///
/// Every method fails with [`FilesError::PathEscape`] if a path is absolute or leads out of the directory.
#[derive(Debug)]
pub struct Files {
    root: Root,
}

impl Files {
    /// Those beneath `root`, which is no symbolic link.
    ///
    /// # Errors
    /// As open(2).
    pub fn open(root: &Path) -> Result<Files, FilesError> {
        let root = Root::open(root, false).map_err(failed("open", Path::new("")))?;
        Ok(Files { root })
    }

    /// Those beneath `root`, as for a process whose root directory it is (chroot(2)): absolute links begin there again, and
    /// `..` stays there. Nothing leads out, and no path escapes.
    ///
    /// # Errors
    /// As open(2).
    pub fn open_as_root(root: &Path) -> Result<Files, FilesError> {
        let root = Root::open(root, true).map_err(failed("open", Path::new("")))?;
        Ok(Files { root })
    }

    /// Takes a path that a caller gave.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`] if its text alone leads out, whatever is there: what is missing on the way would be
    /// an error of its own otherwise, or be made.
    pub(crate) fn path(&self, given: &Path) -> Result<RelativePath, FilesError> {
        let path = RelativePath::new(given)?;
        if !self.root.is_root() && path.climbs_out() {
            return Err(FilesError::PathEscape {
                path: given.to_owned(),
            });
        }
        Ok(path)
    }

    /// Opens a file for reading.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::NotRegular`], [`FilesError::FileTooLarge`] above [`MAX_READ`].
    pub fn open_file(&self, path: impl AsRef<Path>) -> Result<File, FilesError> {
        let path = path.as_ref();
        let file = self.open_file_of_any_size(path)?;
        match file.metadata().map_err(failed("read", path))?.len() {
            size if size > MAX_READ => Err(too_large(path, size)),
            _ => Ok(file),
        }
    }

    /// Opens a file for reading, whose contents the caller does not keep.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::NotRegular`].
    pub fn open_file_of_any_size(&self, path: impl AsRef<Path>) -> Result<File, FilesError> {
        let path = self.path(path.as_ref())?;
        let file = self.root.find("read", &path)?;
        check_regular("read", path.given(), &file)?;
        reopen(file.as_fd(), OFlag::O_RDONLY).map_err(failed("read", path.given()))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// As [`open_file`](Self::open_file).
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, FilesError> {
        let path = path.as_ref();
        let file = self.open_file(path)?;
        let size = file.metadata().map_err(failed("read", path))?.len();
        let mut contents = Vec::with_capacity(usize::try_from(size.min(MAX_READ)).unwrap_or(0));
        // It may grow meanwhile.
        let read = file.take(MAX_READ + 1).read_to_end(&mut contents);
        match read.map_err(failed("read", path))? as u64 {
            size if size > MAX_READ => Err(too_large(path, size)),
            _ => Ok(contents),
        }
    }

    /// Opens a file for writing, which is created with mode 0644 or truncated. Its directory must exist.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::NotRegular`].
    pub fn create(&self, path: impl AsRef<Path>) -> Result<File, FilesError> {
        let path = self.path(path.as_ref())?;
        let failed = failed("write", path.given());
        match self.root.find("write", &path) {
            Ok(existing) => {
                check_regular("write", path.given(), &existing)?;
                reopen(existing.as_fd(), OFlag::O_WRONLY | OFlag::O_TRUNC).map_err(failed)
            }
            Err(FilesError::NotFound { .. }) => {
                let file = self.root.create("write", &path, FILE_MODE)?;
                check_regular("write", path.given(), &file)?;
                file.set_len(0).map_err(failed)?;
                // The file mode creation mask may have taken bits away.
                fchmod(&file, FILE_MODE).map_err(|error| failed(error.into()))?;
                Ok(file)
            }
            Err(error) => Err(error),
        }
    }

    /// Writes a file, as [`create`](Self::create) makes it.
    ///
    /// # Errors
    /// As [`create`](Self::create); as write(2).
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), FilesError> {
        let path = path.as_ref();
        let mut file = self.create(path)?;
        file.write_all(contents.as_ref())
            .map_err(failed("write", path))
    }

    /// Lists a directory, in the order of names, without `.` and `..`. Links are not followed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`], [`FilesError::DirectoryTooLarge`] above [`MAX_ENTRIES`].
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FileEntry>, FilesError> {
        let mut entries = Vec::new();
        self.visit(path, |entry| {
            entries.push(entry);
            Ok::<_, FilesError>(())
        })?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Opens a directory.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; `ENOTDIR`.
    pub fn open_directory(&self, path: impl AsRef<Path>) -> Result<OwnedFd, FilesError> {
        let path = self.path(path.as_ref())?;
        self.root.directory("open", &path)
    }

    /// Calls `visit` for each entry of a directory, as it finds them, until one fails.
    ///
    /// # Errors
    /// As [`list`](Self::list); those of `visit`.
    pub fn visit<E: From<FilesError>>(
        &self,
        path: impl AsRef<Path>,
        mut visit: impl FnMut(FileEntry) -> Result<(), E>,
    ) -> Result<(), E> {
        let path = self.path(path.as_ref())?;
        let directory = self.root.directory("list", &path)?;
        let failed = |error: Errno| error::failed("list", path.given())(error.into());
        let reader = directory
            .try_clone()
            .map_err(error::failed("list", path.given()))?;
        let mut count = 0;
        for entry in Dir::from_fd(reader).map_err(failed)?.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            count += 1;
            if count > MAX_ENTRIES {
                let path = path.given().to_owned();
                return Err(FilesError::DirectoryTooLarge { path, count }.into());
            }
            match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => visit(FileEntry::new(os_string(name), &stat))?,
                // Removed meanwhile.
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(failed(error).into()),
            }
        }
        Ok(())
    }

    /// Makes a directory and those above it that are missing, with mode 0755. That it exists is fine.
    ///
    /// # Errors
    /// `EEXIST` or `ENOTDIR` if something else is in the way.
    pub fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let root = &self.root;
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let open = |prefix: &CStr| root.resolve(prefix, flags, Mode::empty());
        let failed = |error| unresolved("create", path.given(), error);
        let mut parent = open(c".").map_err(failed)?;
        // Each component from the root on, since only there `..` and links mean what they mean in the whole path.
        for prefix in path.prefixes() {
            let last = prefix
                .rsplit(|&byte| byte == b'/')
                .next()
                .unwrap_or_default();
            let invalid =
                |error: std::ffi::NulError| error::failed("create", path.given())(error.into());
            let (prefix, name) = (
                CString::new(prefix).map_err(invalid)?,
                CString::new(last).map_err(invalid)?,
            );
            parent = match open(&prefix) {
                Err(Errno::ENOENT) => {
                    make_directory(&parent, &name)
                        .map_err(|error| error::failed("create", path.given())(error.into()))?;
                    open(&prefix).map_err(failed)?
                }
                result => result.map_err(failed)?,
            };
        }
        Ok(())
    }

    /// Removes a file, a link or an empty directory.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; `ENOTEMPTY`.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let Entry { directory, name } = self.root.entry("remove", &path)?;
        let removed = match unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir),
            result => result,
        };
        removed.map_err(|error| failed("remove", path.given())(error.into()))
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; `EISDIR`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let Entry { directory, name } = self.root.entry("remove", &path)?;
        unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(|error| failed("remove", path.given())(error.into()))
    }

    /// Removes whatever is at a path, with everything beneath it. That nothing is there is fine.
    ///
    /// # Errors
    /// `ENOTEMPTY` when a guest keeps adding to it.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        match self.root.entry("remove", &path) {
            Ok(Entry { directory, name }) => {
                remove_tree(directory.as_fd(), &name).map_err(failed("remove", path.given()))
            }
            Err(FilesError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Tells about what is at a path. A link is followed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`].
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<FileEntry, FilesError> {
        let path = self.path(path.as_ref())?;
        let found = self.root.find("examine", &path)?;
        let stat = fstat(&found).map_err(|error| failed("examine", path.given())(error.into()))?;
        let name = path.given().file_name().unwrap_or(OsStr::new("."));
        Ok(FileEntry::new(name.to_owned(), &stat))
    }

    /// Copies a file, a link or a directory with everything beneath it, with permissions, times and, for root, owners;
    /// links stay links and holes stay holes. A file replaces a file; a directory or a link must be new.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; `EEXIST`; [`FilesError::NotRegular`] for FIFOs, devices and sockets;
    /// [`FilesError::IntoItself`]; [`FilesError::TooDeep`] above 128 directories within each other. What was copied until
    /// then stays.
    pub fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), FilesError> {
        let (from, to) = (self.path(from.as_ref())?, self.path(to.as_ref())?);
        let root = &self.root;
        let source = root.entry("copy", &from)?;
        let target = root.entry("copy", &to)?;
        copying::copy(&source, &target, from.given())
    }

    /// Gives a file, link or directory another name, and replaces what has that name as rename(2) does.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; as rename(2).
    pub fn rename(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), FilesError> {
        let (from, to) = (self.path(from.as_ref())?, self.path(to.as_ref())?);
        let root = &self.root;
        let source = root.entry("rename", &from)?;
        let target = root.entry("rename", &to)?;
        renameat(
            &source.directory,
            source.name.as_c_str(),
            &target.directory,
            target.name.as_c_str(),
        )
        .map_err(|error| failed("rename", from.given())(error.into()))
    }
}

fn too_large(path: &Path, size: u64) -> FilesError {
    FilesError::FileTooLarge {
        path: path.to_owned(),
        size,
    }
}

/// Makes entry `name` of `parent` a directory; that there is one is fine.
fn make_directory(parent: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    match mkdirat(parent, name, DIRECTORY_MODE) {
        // It has just appeared, or is a link to nothing, which the caller finds out.
        Err(Errno::EEXIST) => return Ok(()),
        result => result?,
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(parent, name, flags, Mode::empty()) {
        // The file mode creation mask may have taken bits away.
        Ok(directory) => fchmod(&directory, DIRECTORY_MODE),
        // A guest has put something else there.
        Err(_) => Ok(()),
    }
}

fn os_string(name: &CStr) -> OsString {
    OsString::from_vec(name.to_bytes().to_vec())
}
