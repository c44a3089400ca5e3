//! The files of a volume, reached from the host while sandboxes may use them.
//!
//! Everything is hostile: names, links and what directories become between two system calls are the guest's. See
//! [`beneath`] for how paths are resolved. Nothing but regular files is ever opened for reading or writing.

mod beneath;
mod copying;
mod entry;
mod error;
#[cfg(test)]
mod race_tests;
#[cfg(test)]
mod tests;

use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod, fstat, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, unlinkat};

pub use entry::{FsEntry, FsEntryKind};
pub use error::VolumeFsError;

use super::handle::VolumeHandle;
use super::removal::remove_tree;
use super::{disk_image, usage};
use beneath::{Entry, Root, VolumePath, check_regular, reopen};
use error::{failed, unresolved};

/// Most bytes that are read into memory: a guest can make a file that only seems to be large.
const MAX_READ: u64 = 1 << 30;

/// Most entries of a directory that are listed.
const MAX_ENTRIES: usize = 1 << 20;

/// Permissions of new files.
const FILE_MODE: Mode = Mode::from_bits_truncate(0o644);

/// Permissions of new directories.
const DIRECTORY_MODE: Mode = Mode::from_bits_truncate(0o755);

/// The files of a volume. Paths are relative to its root; symbolic links are followed as long as they lead nowhere else.
///
/// Every method fails with [`VolumeFsError::PathEscape`] if a path is absolute or leads out of the volume, and with
/// [`VolumeFsError::Unsupported`] if the volume is a disk.
#[derive(Debug, Clone)]
pub struct VolumeFs {
    volume: VolumeHandle,
    root: PathBuf,
}

impl VolumeFs {
    pub(super) fn new(volume: VolumeHandle) -> VolumeFs {
        VolumeFs {
            root: volume.path(),
            volume,
        }
    }

    /// Path of the root on the host.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`], [`VolumeFsError::NotRegular`], [`VolumeFsError::TooLarge`] above 1 GiB.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        let file = self.open_root()?.find("read", &path)?;
        check_regular("read", path.given(), &file)?;
        let failed = failed("read", path.given());
        let file = reopen(file.as_fd(), OFlag::O_RDONLY).map_err(failed)?;
        let size = file.metadata().map_err(failed)?.len();
        let too_large = |size| VolumeFsError::TooLarge {
            path: path.given().to_owned(),
            size,
            unit: "bytes",
            limit: MAX_READ,
        };
        if size > MAX_READ {
            return Err(too_large(size));
        }
        let mut contents = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        // It may grow meanwhile.
        let read = file.take(MAX_READ + 1).read_to_end(&mut contents);
        match read.map_err(failed)? as u64 {
            size if size > MAX_READ => Err(too_large(size)),
            _ => Ok(contents),
        }
    }

    /// Reads a file as text.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`VolumeFsError::NotText`] if it is not UTF-8.
    pub fn read_string(&self, path: impl AsRef<Path>) -> Result<String, VolumeFsError> {
        let path = path.as_ref();
        String::from_utf8(self.read(path)?).map_err(|_| VolumeFsError::NotText {
            path: path.to_owned(),
        })
    }

    /// Writes a file, which is created with mode 0644 or truncated. Its directory must exist.
    ///
    /// Machines that use a volume with a quota keep an account of their own, in which this shows when the first of them
    /// starts after the last has ended.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`], [`VolumeFsError::NotRegular`]; [`VolumeFsError::QuotaExceeded`], for which
    /// everything in a volume with a quota is counted.
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), VolumeFsError> {
        let (path, contents) = (VolumePath::new(path.as_ref())?, contents.as_ref());
        let root = self.open_root()?;
        let failed = failed("write", path.given());
        let mut file = match root.find("write", &path) {
            Ok(existing) => {
                let stat = check_regular("write", path.given(), &existing)?;
                let freed = stat.st_blocks.unsigned_abs().saturating_mul(512);
                self.check_quota(&path, contents.len() as u64, freed)?;
                reopen(existing.as_fd(), OFlag::O_WRONLY | OFlag::O_TRUNC).map_err(failed)?
            }
            Err(VolumeFsError::NotFound { .. }) => {
                self.check_quota(&path, contents.len() as u64, 0)?;
                let file = root.create("write", &path, FILE_MODE)?;
                check_regular("write", path.given(), &file)?;
                file.set_len(0).map_err(failed)?;
                // The file mode creation mask may have taken bits away.
                fchmod(&file, FILE_MODE).map_err(|error| failed(error.into()))?;
                file
            }
            Err(error) => return Err(error),
        };
        file.write_all(contents).map_err(failed)
    }

    /// Lists a directory, in the order of names, without `.` and `..`. Links are not followed.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`], [`VolumeFsError::TooLarge`] above a million entries.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FsEntry>, VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        let directory = self.open_root()?.directory("list", &path)?;
        let failed = |error: Errno| failed("list", path.given())(error.into());
        let reader = directory
            .try_clone()
            .map_err(|error| error::failed("list", path.given())(error))?;
        let mut entries = Vec::new();
        for entry in Dir::from_fd(reader).map_err(failed)?.iter() {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            if entries.len() == MAX_ENTRIES {
                return Err(VolumeFsError::TooLarge {
                    path: path.given().to_owned(),
                    size: entries.len() as u64 + 1,
                    unit: "entries",
                    limit: MAX_ENTRIES as u64,
                });
            }
            match fstatat(&directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(stat) => entries.push(FsEntry::new(os_string(name), &stat)),
                // Removed meanwhile.
                Err(Errno::ENOENT) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Makes a directory and those above it that are missing, with mode 0755. That it exists is fine.
    ///
    /// # Errors
    /// `EEXIST` or `ENOTDIR` if something else is in the way.
    pub fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        let root = self.open_root()?;
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
    /// [`VolumeFsError::NotFound`]; `ENOTEMPTY`.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        let Entry { directory, name } = self.open_root()?.entry("remove", &path)?;
        let removed = match unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
            Err(Errno::EISDIR) => unlinkat(&directory, name.as_c_str(), UnlinkatFlags::RemoveDir),
            result => result,
        };
        removed.map_err(|error| failed("remove", path.given())(error.into()))
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; `EISDIR`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        let Entry { directory, name } = self.open_root()?.entry("remove", &path)?;
        unlinkat(&directory, name.as_c_str(), UnlinkatFlags::NoRemoveDir)
            .map_err(|error| failed("remove", path.given())(error.into()))
    }

    /// Removes whatever is at a path, with everything beneath it. That nothing is there is fine.
    ///
    /// # Errors
    /// `ENOTEMPTY` when a guest keeps adding to it.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        match self.open_root()?.entry("remove", &path) {
            Ok(Entry { directory, name }) => {
                remove_tree(directory.as_fd(), &name).map_err(failed("remove", path.given()))
            }
            Err(VolumeFsError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether something is at a path. A link that leads to nothing does not count.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool, VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        match self.open_root()?.find("find", &path) {
            Ok(_) => Ok(true),
            Err(VolumeFsError::NotFound { .. }) => Ok(false),
            // A file stands where the path has a directory.
            Err(VolumeFsError::Io { source, .. })
                if source.raw_os_error() == Some(libc::ENOTDIR) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells about what is at a path. A link is followed.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`].
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<FsEntry, VolumeFsError> {
        let path = VolumePath::new(path.as_ref())?;
        let found = self.open_root()?.find("examine", &path)?;
        let stat = fstat(&found).map_err(|error| failed("examine", path.given())(error.into()))?;
        let name = path.given().file_name().unwrap_or(OsStr::new("."));
        Ok(FsEntry::new(name.to_owned(), &stat))
    }

    /// Copies a file, a link or a directory with everything beneath it, with permissions, times and, for root, owners;
    /// links stay links and holes stay holes. A file replaces a file; a directory or a link must be new.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; `EEXIST`; [`VolumeFsError::NotRegular`] for FIFOs, devices and sockets;
    /// [`VolumeFsError::IntoItself`]; [`VolumeFsError::TooDeep`] above 128 directories within each other;
    /// [`VolumeFsError::QuotaExceeded`]. What was copied until then stays.
    pub fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let (from, to) = (
            VolumePath::new(from.as_ref())?,
            VolumePath::new(to.as_ref())?,
        );
        let root = self.open_root()?;
        let source = root.entry("copy", &from)?;
        let target = root.entry("copy", &to)?;
        if self.quota().is_some() {
            self.check_quota(&from, used_by(&source, from.given())?, 0)?;
        }
        copying::copy(&source, &target, from.given())
    }

    /// Gives a file, link or directory another name, and replaces what has that name as rename(2) does.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; as rename(2).
    pub fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), VolumeFsError> {
        let (from, to) = (
            VolumePath::new(from.as_ref())?,
            VolumePath::new(to.as_ref())?,
        );
        let root = self.open_root()?;
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

    fn open_root(&self) -> Result<Root, VolumeFsError> {
        if let Some(image) = self.volume.disk_image() {
            return Err(VolumeFsError::Unsupported {
                name: self.volume.name().to_string(),
                in_use: disk_image::is_open(&image),
            });
        }
        Root::open(&self.root).map_err(failed("open", Path::new("")))
    }

    /// Bytes that the volume may hold.
    fn quota(&self) -> Option<u64> {
        self.volume.quota_mib().map(|quota| u64::from(quota) << 20)
    }

    /// Whether `needed` bytes find room when `freed` others are given up.
    fn check_quota(&self, path: &VolumePath, needed: u64, freed: u64) -> Result<(), VolumeFsError> {
        let Some(quota) = self.quota() else {
            return Ok(());
        };
        let failed = failed("count", path.given());
        let directory = File::open(&self.root).map_err(failed)?;
        let used = usage::used_bytes(directory.into()).map_err(failed)?;
        let left = quota.saturating_sub(used.saturating_sub(freed));
        if needed > left {
            return Err(VolumeFsError::QuotaExceeded {
                path: path.given().to_owned(),
                needed,
                quota,
                left,
            });
        }
        Ok(())
    }
}

/// Bytes that an entry takes up, with everything beneath it.
fn used_by(entry: &Entry, path: &Path) -> Result<u64, VolumeFsError> {
    let failed = failed("count", path);
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    match openat(
        &entry.directory,
        entry.name.as_c_str(),
        flags,
        Mode::empty(),
    ) {
        Ok(directory) => usage::used_bytes(directory).map_err(failed),
        Err(Errno::ENOTDIR | Errno::ELOOP) => {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            let stat = fstatat(&entry.directory, entry.name.as_c_str(), flags);
            let stat = stat.map_err(|error| failed(error.into()))?;
            Ok(stat.st_blocks.unsigned_abs().saturating_mul(512))
        }
        Err(error) => Err(failed(error.into())),
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
