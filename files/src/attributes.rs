//! What inode(7) tells of files, and setting it.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, readlinkat};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, fstat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use protocol::{ClockTime, FileAttributes};

use crate::Files;
use crate::beneath::{Entry, RelativePath};
use crate::error::{FilesError, failed};

impl Files {
    /// Tells all that inode(7) says of what is at a path, of a link itself unless it is followed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`].
    pub fn attributes(
        &self,
        path: impl AsRef<Path>,
        follow: bool,
    ) -> Result<FileAttributes, FilesError> {
        let path = self.path(path.as_ref())?;
        let found = match follow {
            true => self.root.find("examine", &path)?,
            false => self.root.find_unfollowed("examine", &path)?,
        };
        let stat = fstat(&found).map_err(errno("examine", &path))?;
        Ok(attributes(&stat))
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; `EINVAL` if there is no link.
    pub fn read_link(&self, path: impl AsRef<Path>) -> Result<OsString, FilesError> {
        let path = self.path(path.as_ref())?;
        let link = self.root.find_unfollowed("read", &path)?;
        // Of a descriptor that is no link, readlinkat(2) says ENOENT.
        match readlinkat(&link, c"") {
            Err(Errno::ENOENT) => Err(errno("read", &path)(Errno::EINVAL)),
            result => result.map_err(errno("read", &path)),
        }
    }

    /// Makes a link, whatever it leads to. Nothing may be there.
    ///
    /// # Errors
    /// [`FilesError::NotFound`] without its directory; `EEXIST`.
    pub fn symlink(
        &self,
        target: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let Entry { directory, name } = self.root.entry("create", &path)?;
        symlinkat(target.as_ref(), &directory, name.as_c_str()).map_err(errno("create", &path))
    }

    /// Sets the lower twelve bits of `st_mode`. A link is followed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; as chmod(2).
    pub fn set_mode(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let found = self.root.find("change", &path)?;
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(
            AT_FDCWD,
            link_to(&found).as_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )
        .map_err(errno("change", &path))
    }

    /// Sets the user and the group that own it, those that are given. A link is followed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; as chown(2).
    pub fn set_owner(
        &self,
        path: impl AsRef<Path>,
        user: Option<u32>,
        group: Option<u32>,
    ) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let found = self.root.find("change", &path)?;
        let (user, group) = (user.map(Uid::from_raw), group.map(Gid::from_raw));
        let entry = link_to(&found);
        fchownat(AT_FDCWD, entry.as_str(), user, group, AtFlags::empty())
            .map_err(errno("change", &path))
    }

    /// Sets when it was read last and when its contents were changed last, those that are given. A link is followed.
    ///
    /// # Errors
    /// [`FilesError::NotFound`]; as utimensat(2).
    pub fn set_times(
        &self,
        path: impl AsRef<Path>,
        accessed: Option<ClockTime>,
        modified: Option<ClockTime>,
    ) -> Result<(), FilesError> {
        let path = self.path(path.as_ref())?;
        let found = self.root.find("change", &path)?;
        let time = |time: Option<ClockTime>| time.map_or(TimeSpec::UTIME_OMIT, time_spec);
        utimensat(
            AT_FDCWD,
            link_to(&found).as_str(),
            &time(accessed),
            &time(modified),
            UtimensatFlags::FollowSymlink,
        )
        .map_err(errno("change", &path))
    }

    /// As [`create`](Self::create); the file then has these permissions.
    ///
    /// # Errors
    /// As [`create`](Self::create); as chmod(2).
    pub fn create_with_mode(
        &self,
        path: impl AsRef<Path>,
        mode: u32,
    ) -> Result<std::fs::File, FilesError> {
        let path = path.as_ref();
        let file = self.create(path)?;
        fchmod(&file, Mode::from_bits_truncate(mode & 0o7777))
            .map_err(|error| failed("change", path)(error.into()))?;
        Ok(file)
    }
}

/// The entry of /proc that leads to the very file of a descriptor, which need not be open for anything.
fn link_to(descriptor: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", descriptor.as_raw_fd())
}

fn errno(action: &'static str, path: &RelativePath) -> impl Fn(Errno) -> FilesError {
    move |error| failed(action, path.given())(io::Error::from(error))
}

fn attributes(stat: &FileStat) -> FileAttributes {
    FileAttributes {
        mode: stat.st_mode,
        uid: stat.st_uid,
        gid: stat.st_gid,
        links: stat.st_nlink,
        size: u64::try_from(stat.st_size).unwrap_or(0),
        allocated: stat.st_blocks.unsigned_abs().saturating_mul(512),
        accessed: clock_time(stat.st_atime, stat.st_atime_nsec),
        modified: clock_time(stat.st_mtime, stat.st_mtime_nsec),
        changed: clock_time(stat.st_ctime, stat.st_ctime_nsec),
    }
}

/// A time of stat(2).
pub(crate) fn clock_time(seconds: i64, nanoseconds: i64) -> ClockTime {
    ClockTime {
        seconds,
        nanoseconds: u32::try_from(nanoseconds).unwrap_or(0),
    }
}

/// A time for utimensat(2), in which some numbers of nanoseconds mean something else.
pub(crate) fn time_spec(time: ClockTime) -> TimeSpec {
    TimeSpec::new(time.seconds, i64::from(time.nanoseconds.min(999_999_999)))
}
