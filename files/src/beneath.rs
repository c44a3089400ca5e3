//! Paths that the kernel resolves beneath a root, and nowhere else.
//!
//! A guest may change directories into symbolic links at any time, so no path is looked at and used afterwards:
//! openat2(2) resolves it in one step, with `RESOLVE_BENEATH`, and what is done after that is done with the descriptor.
//! The text of a path is not changed either: what `a/../b` means depends on what `a` is.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::error::{FilesError, failed, unresolved};

/// How often a path with `..` is resolved again because somebody renamed something meanwhile (`EAGAIN`).
const MAX_ATTEMPTS: u32 = 128;

/// A path that a caller gave, relative to the root.
#[derive(Debug, Clone)]
pub(crate) struct RelativePath {
    given: PathBuf,
    path: CString,
}

/// A directory and the name of an entry in it, which may or may not exist.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) directory: OwnedFd,
    pub(crate) name: CString,
}

impl RelativePath {
    /// Takes what was given; the empty path is the root.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`] if it is absolute.
    pub(crate) fn new(path: &Path) -> Result<RelativePath, FilesError> {
        let given = path.to_owned();
        if path.is_absolute() {
            return Err(FilesError::PathEscape { path: given });
        }
        let bytes = match path.as_os_str().as_bytes() {
            b"" => b".",
            bytes => bytes,
        };
        match CString::new(bytes) {
            Ok(path) => Ok(RelativePath { given, path }),
            Err(error) => Err(failed("use", path)(error.into())),
        }
    }

    /// As it was given.
    pub(crate) fn given(&self) -> &Path {
        &self.given
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.path.to_bytes()
    }

    /// Whether it has more `..` than components before them, at any point.
    pub(crate) fn climbs_out(&self) -> bool {
        let mut depth = 0_usize;
        for component in self.as_bytes().split(|&byte| byte == b'/') {
            depth = match component {
                b"" | b"." => depth,
                b".." => match depth.checked_sub(1) {
                    Some(above) => above,
                    None => return true,
                },
                _ => depth.saturating_add(1),
            };
        }
        false
    }

    /// Where its components end, one after the other.
    pub(crate) fn prefixes(&self) -> Vec<&[u8]> {
        let bytes = self.path.to_bytes();
        let ends = (0..=bytes.len()).filter(|&end| {
            let ends_here = bytes.get(end).is_none_or(|&byte| byte == b'/');
            ends_here && end.checked_sub(1).is_some_and(|last| bytes[last] != b'/')
        });
        ends.map(|end| &bytes[..end]).collect()
    }
}

/// The root.
#[derive(Debug)]
pub(crate) struct Root {
    directory: OwnedFd,
    resolve: ResolveFlag,
}

impl Root {
    /// Opens it. What leads out of it leads nowhere (`RESOLVE_BENEATH`), or with `as_root` to it again
    /// (`RESOLVE_IN_ROOT`).
    ///
    /// # Errors
    /// As open(2), `NotFound` if it is gone.
    pub(crate) fn open(path: &Path, as_root: bool) -> io::Result<Root> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let beneath = match as_root {
            true => ResolveFlag::RESOLVE_IN_ROOT,
            false => ResolveFlag::RESOLVE_BENEATH,
        };
        Ok(Root {
            directory: nix::fcntl::open(path, flags, Mode::empty())?,
            resolve: beneath | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        })
    }

    /// Whether links lead to it again that would lead out.
    pub(crate) fn is_root(&self) -> bool {
        self.resolve.contains(ResolveFlag::RESOLVE_IN_ROOT)
    }

    /// Opens what lies at `path`.
    ///
    /// # Errors
    /// As openat2(2): `EXDEV` if it leads out.
    pub(crate) fn resolve(&self, path: &CStr, flags: OFlag, mode: Mode) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .mode(mode)
            .resolve(self.resolve);
        open_resolved(self.directory.as_fd(), path, how)
    }

    /// Refers to what lies at `path`, without opening it: neither a FIFO waits nor a device does anything.
    ///
    /// # Errors
    /// [`FilesError::PathEscape`], [`FilesError::NotFound`].
    pub(crate) fn find(
        &self,
        action: &'static str,
        path: &RelativePath,
    ) -> Result<OwnedFd, FilesError> {
        self.resolve(&path.path, OFlag::O_PATH, Mode::empty())
            .map_err(|error| unresolved(action, path.given(), error))
    }

    /// As [`find`](Self::find); a link that `path` ends with is found itself.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn find_unfollowed(
        &self,
        action: &'static str,
        path: &RelativePath,
    ) -> Result<OwnedFd, FilesError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW;
        self.resolve(&path.path, flags, Mode::empty())
            .map_err(|error| unresolved(action, path.given(), error))
    }

    /// Opens the directory at `path` for reading.
    ///
    /// # Errors
    /// As [`find`](Self::find); `ENOTDIR`.
    pub(crate) fn directory(
        &self,
        action: &'static str,
        path: &RelativePath,
    ) -> Result<OwnedFd, FilesError> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        self.resolve(&path.path, flags, Mode::empty())
            .map_err(|error| unresolved(action, path.given(), error))
    }

    /// Makes the file at `path`, or opens what has appeared there meanwhile.
    ///
    /// # Errors
    /// As [`find`](Self::find).
    pub(crate) fn create(
        &self,
        action: &'static str,
        path: &RelativePath,
        mode: Mode,
    ) -> Result<File, FilesError> {
        // A FIFO that has appeared meanwhile makes nobody wait.
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let file = self
            .resolve(&path.path, flags, mode)
            .map_err(|error| unresolved(action, path.given(), error))?;
        Ok(File::from(file))
    }

    /// Finds the directory in which the last component of `path` is an entry.
    ///
    /// # Errors
    /// As [`find`](Self::find); [`FilesError::NotAnEntry`].
    pub(crate) fn entry(
        &self,
        action: &'static str,
        path: &RelativePath,
    ) -> Result<Entry, FilesError> {
        let bytes = path.path.to_bytes();
        // `a/` is `a`, as for unlink(2) and rename(2) of a directory.
        let end = bytes.iter().rposition(|&byte| byte != b'/');
        let bytes = &bytes[..end.map_or(0, |end| end + 1)];
        let slash = bytes.iter().rposition(|&byte| byte == b'/');
        let (parent, name) = match slash {
            Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
            None => (b".".as_slice(), bytes),
        };
        if matches!(name, b"" | b"." | b"..") {
            // It may lead out besides.
            self.find(action, path)?;
            return Err(FilesError::NotAnEntry {
                path: path.given().to_owned(),
            });
        }
        let invalid = |error: std::ffi::NulError| failed(action, path.given())(error.into());
        let parent = CString::new(parent).map_err(invalid)?;
        let name = CString::new(name).map_err(invalid)?;
        let directory = self
            .resolve(&parent, OFlag::O_PATH | OFlag::O_DIRECTORY, Mode::empty())
            .map_err(|error| unresolved(action, path.given(), error))?;
        Ok(Entry { directory, name })
    }
}

/// As openat2(2), again when somebody renamed something meanwhile.
///
/// # Errors
/// As openat2(2).
pub(crate) fn open_resolved(
    directory: BorrowedFd<'_>,
    path: &CStr,
    how: OpenHow,
) -> Result<OwnedFd, Errno> {
    for _ in 0..MAX_ATTEMPTS {
        match openat2(directory, path, how) {
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return result,
        }
    }
    Err(Errno::EAGAIN)
}

/// Opens for I/O what `descriptor` refers to. The caller has made sure that it is a regular file: opening others could
/// wait or have effects.
///
/// # Errors
/// As open(2), if /proc is not mounted for example.
pub(crate) fn reopen(descriptor: BorrowedFd<'_>, flags: OFlag) -> io::Result<File> {
    let entry = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
    let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
    Ok(nix::fcntl::open(entry.as_str(), flags, Mode::empty())?.into())
}

/// What fstat(2) says, if it is a regular file.
///
/// # Errors
/// [`FilesError::NotRegular`]; `EISDIR`.
pub(crate) fn check_regular(
    action: &'static str,
    path: &Path,
    descriptor: impl AsFd,
) -> Result<FileStat, FilesError> {
    let stat = fstat(descriptor).map_err(|error| failed(action, path)(error.into()))?;
    match stat.st_mode & SFlag::S_IFMT.bits() {
        kind if kind == SFlag::S_IFREG.bits() => Ok(stat),
        kind if kind == SFlag::S_IFDIR.bits() => Err(failed(action, path)(Errno::EISDIR.into())),
        _ => Err(FilesError::NotRegular {
            path: path.to_owned(),
        }),
    }
}
