//! Copying files and trees beneath the root.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{
    FileStat, Mode, SFlag, UtimensatFlags, fchmod, fstat, futimens, mkdirat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, Whence, fchown, fchownat, geteuid, lseek, symlinkat};

use crate::beneath::{Entry, check_regular, reopen};
use crate::error::{FilesError, failed};

/// How many directories within each other are copied; each takes four descriptors.
const MAX_DEPTH: usize = 128;

/// A copy that is made. `path` is what the caller called the source, for errors.
struct Copying<'p> {
    path: &'p Path,
    /// Device and inode of the directory that is made: it must not be copied into itself.
    made: Option<(u64, u64)>,
}

/// Copies what `source` names, a symbolic link as such, to `target`: a file replaces a file, a directory or a link
/// must not exist yet. Permissions and times are those of the source, owners too if this process may give files away;
/// holes stay holes.
///
/// # Errors
/// As the system calls; [`FilesError::NotRegular`] for FIFOs, devices and sockets.
pub(crate) fn copy(source: &Entry, target: &Entry, path: &Path) -> Result<(), FilesError> {
    let mut copying = Copying { path, made: None };
    copying.entry(
        (source.directory.as_fd(), &source.name),
        (target.directory.as_fd(), &target.name),
        0,
    )
}

/// A directory and the name of an entry in it.
type Place<'d> = (BorrowedFd<'d>, &'d CStr);

impl Copying<'_> {
    fn entry(&mut self, from: Place<'_>, to: Place<'_>, depth: usize) -> Result<(), FilesError> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let source = self.check(openat(from.0, from.1, flags, Mode::empty()))?;
        let stat = self.check(fstat(&source))?;
        match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFDIR => self.directory(&source, &stat, to, depth),
            SFlag::S_IFLNK => self.link(&source, &stat, to),
            _ => self.file(&source, to),
        }
    }

    fn directory(
        &mut self,
        source: &OwnedFd,
        stat: &FileStat,
        to: Place<'_>,
        depth: usize,
    ) -> Result<(), FilesError> {
        if self.made == Some((stat.st_dev, stat.st_ino)) {
            return Err(FilesError::IntoItself {
                path: self.path.to_owned(),
            });
        }
        if depth == MAX_DEPTH {
            return Err(FilesError::TooDeep {
                path: self.path.to_owned(),
                limit: MAX_DEPTH as u64,
            });
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.check(mkdirat(to.0, to.1, Mode::S_IRWXU))?;
        let target = self.check(openat(to.0, to.1, flags, Mode::empty()))?;
        if depth == 0 {
            let made = self.check(fstat(&target))?;
            self.made = Some((made.st_dev, made.st_ino));
        }
        let directory = self.check(openat(source, c".", flags, Mode::empty()))?;
        let mut entries = self.check(Dir::from_fd(directory))?;
        for entry in entries.iter() {
            let entry = self.check(entry)?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            match self.entry((source.as_fd(), name), (target.as_fd(), name), depth + 1) {
                // Removed meanwhile.
                Err(FilesError::NotFound { .. }) => {}
                result => result?,
            }
        }
        self.check(give(&target, stat))
    }

    fn link(&self, source: &OwnedFd, stat: &FileStat, to: Place<'_>) -> Result<(), FilesError> {
        // readlinkat(2) reads the link itself that an `O_PATH` descriptor refers to.
        let text = self.check(readlinkat(source, c""))?;
        self.check(symlinkat(text.as_os_str(), to.0, to.1))?;
        if let Some((owner, group)) = owners(stat) {
            let flags = AtFlags::AT_SYMLINK_NOFOLLOW;
            self.check(fchownat(to.0, to.1, Some(owner), Some(group), flags))?;
        }
        let (accessed, modified) = times(stat);
        let flags = UtimensatFlags::NoFollowSymlink;
        self.check(utimensat(to.0, to.1, &accessed, &modified, flags))
    }

    fn file(&self, source: &OwnedFd, to: Place<'_>) -> Result<(), FilesError> {
        let stat = check_regular("copy", self.path, source)?;
        let failed = failed("copy", self.path);
        let mut source = reopen(source.as_fd(), OFlag::O_RDONLY).map_err(failed)?;
        // No link is followed, and a FIFO that is there makes nobody wait.
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK
            | OFlag::O_NOCTTY
            | OFlag::O_CLOEXEC;
        let target = self.check(openat(to.0, to.1, flags, Mode::S_IRUSR | Mode::S_IWUSR))?;
        let existing = check_regular("copy", self.path, &target)?;
        if (existing.st_dev, existing.st_ino) == (stat.st_dev, stat.st_ino) {
            return Ok(());
        }
        let mut target = File::from(target);
        copy_contents(&mut source, &mut target).map_err(failed)?;
        self.check(give(&target, &stat))
    }

    fn check<T>(&self, result: Result<T, Errno>) -> Result<T, FilesError> {
        result.map_err(|error| failed("copy", self.path)(error.into()))
    }
}

/// Copies the parts of a file that hold data.
fn copy_contents(source: &mut File, target: &mut File) -> io::Result<()> {
    target.set_len(0)?;
    let size = source.metadata()?.len();
    let mut end = 0;
    while end < size {
        let offset = i64::try_from(end).map_err(|_| io::ErrorKind::InvalidData)?;
        let start = match lseek(&*source, offset, Whence::SeekData) {
            Ok(start) => start,
            // Nothing but a hole follows.
            Err(Errno::ENXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let hole = lseek(&*source, start, Whence::SeekHole)?;
        let start = start.unsigned_abs();
        end = hole.unsigned_abs();
        source.seek(SeekFrom::Start(start))?;
        target.seek(SeekFrom::Start(start))?;
        let copied = io::copy(&mut source.take(end.saturating_sub(start)), target)?;
        if copied == 0 {
            // It was cut short meanwhile.
            break;
        }
    }
    target.set_len(size)
}

/// Gives what was made the owners, permissions and times of its source.
fn give(made: impl AsFd, stat: &FileStat) -> Result<(), Errno> {
    if let Some((owner, group)) = owners(stat) {
        fchown(&made, Some(owner), Some(group))?;
    }
    // After the owners, because a change of these takes set-user-ID bits away.
    fchmod(&made, Mode::from_bits_truncate(stat.st_mode & 0o7777))?;
    let (accessed, modified) = times(stat);
    futimens(&made, &accessed, &modified)
}

/// Owner and group to be given, if this process may.
fn owners(stat: &FileStat) -> Option<(Uid, Gid)> {
    geteuid()
        .is_root()
        .then(|| (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid)))
}

fn times(stat: &FileStat) -> (TimeSpec, TimeSpec) {
    (
        TimeSpec::new(stat.st_atime, stat.st_atime_nsec),
        TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
    )
}
