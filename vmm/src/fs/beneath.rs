//! Opening what lies beneath a directory, and nothing else.
//!
//! The guest names one directory entry at a time, relative to a directory that it knows. A name is resolved by
//! openat2(2) as a single component that may be no symbolic link and no magic link, so no name, no symbolic link on
//! the host and no rename in between leads out of the folder.

use std::ffi::{CStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmodat, utimensat};
use nix::sys::time::TimeSpec;

use super::errno;

/// Neither out of the directory nor through a link of any kind.
const CONFINED: ResolveFlag = ResolveFlag::RESOLVE_BENEATH
    .union(ResolveFlag::RESOLVE_NO_SYMLINKS)
    .union(ResolveFlag::RESOLVE_NO_MAGICLINKS);

/// Longest name of a directory entry on Linux, in bytes.
const NAME_MAX: usize = 255;

/// A checked name: one directory entry, neither "." nor "..".
#[derive(Clone, Copy)]
pub(super) struct Component<'n>(&'n CStr);

impl<'n> Component<'n> {
    /// Checks a name that the guest sent.
    ///
    /// # Errors
    /// `ENOENT` if it is empty, `ENAMETOOLONG` above 255 bytes, `EINVAL` if it is no name of an entry.
    pub(super) fn new(name: &'n CStr) -> io::Result<Component<'n>> {
        match name.to_bytes() {
            b"" => Err(errno(libc::ENOENT)),
            b"." | b".." => Err(errno(libc::EINVAL)),
            bytes if bytes.len() > NAME_MAX => Err(errno(libc::ENAMETOOLONG)),
            bytes if bytes.contains(&b'/') => Err(errno(libc::EINVAL)),
            _ => Ok(Component(name)),
        }
    }

    /// The name, for a system call that takes the directory and the name.
    pub(super) fn as_c_str(self) -> &'n CStr {
        self.0
    }
}

/// Opens entry `name` of `directory`. A symbolic link is not followed; with `O_PATH` the link itself is opened.
///
/// # Errors
/// As openat2(2); `ENFILE` if descriptors run short.
pub(super) fn open(
    directory: BorrowedFd<'_>,
    name: Component<'_>,
    flags: OFlag,
    mode: Mode,
) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .mode(mode)
        .resolve(CONFINED);
    openat2(directory, name.0, how).map_err(open_error)
}

/// Opens what lies at `path`, some directories down beneath `root`, as `O_PATH`.
///
/// # Errors
/// As openat2(2); `ENFILE` if descriptors run short.
pub(super) fn open_parked(root: BorrowedFd<'_>, path: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let how = OpenHow::new().flags(flags).resolve(CONFINED);
    openat2(root, path, how).map_err(open_error)
}

/// Whether the host can resolve names as [`open`] needs it.
///
/// # Errors
/// As openat2(2), `ENOSYS` before Linux 5.6.
pub(super) fn probe(directory: &OwnedFd) -> io::Result<()> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_CLOEXEC)
        .resolve(CONFINED);
    openat2(directory, c".", how)?;
    Ok(())
}

/// This process's /proc/self/fd, through which an inode that is held by an `O_PATH` descriptor is opened for I/O or
/// changed. It is held open, so it stays usable where no /proc is in sight. It belongs to the process that opened it:
/// a child after fork(2) needs its own.
pub(super) struct DescriptorDirectory(OwnedFd);

impl DescriptorDirectory {
    /// Opens it.
    ///
    /// # Errors
    /// As open(2), if /proc is not mounted.
    pub(super) fn open() -> io::Result<DescriptorDirectory> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = nix::fcntl::open(c"/proc/self/fd", flags, Mode::empty())?;
        Ok(DescriptorDirectory(directory))
    }

    /// Opens the file that `descriptor` refers to. The caller has made sure that it is a regular file or a directory:
    /// opening a FIFO or a device would have effects on the host.
    ///
    /// # Errors
    /// As open(2); `ENFILE` if descriptors run short.
    pub(super) fn reopen(&self, descriptor: BorrowedFd<'_>, flags: OFlag) -> io::Result<OwnedFd> {
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        openat(&self.0, entry_of(descriptor).as_str(), flags, Mode::empty()).map_err(open_error)
    }

    /// Path of what `descriptor` refers to, as readlink(2) on its entry says.
    ///
    /// # Errors
    /// As readlink(2).
    pub(super) fn path_of(&self, descriptor: BorrowedFd<'_>) -> io::Result<OsString> {
        Ok(readlinkat(&self.0, entry_of(descriptor).as_str())?)
    }

    /// Changes the mode bits of what `descriptor` refers to.
    ///
    /// # Errors
    /// As chmod(2).
    pub(super) fn change_mode(&self, descriptor: BorrowedFd<'_>, mode: Mode) -> io::Result<()> {
        let entry = entry_of(descriptor);
        Ok(fchmodat(
            &self.0,
            entry.as_str(),
            mode,
            FchmodatFlags::FollowSymlink,
        )?)
    }

    /// Changes access and modification time of what `descriptor` refers to.
    ///
    /// # Errors
    /// As utimensat(2).
    pub(super) fn change_times(
        &self,
        descriptor: BorrowedFd<'_>,
        accessed: &TimeSpec,
        modified: &TimeSpec,
    ) -> io::Result<()> {
        let entry = entry_of(descriptor);
        let flags = UtimensatFlags::FollowSymlink;
        Ok(utimensat(
            &self.0,
            entry.as_str(),
            accessed,
            modified,
            flags,
        )?)
    }

    /// Makes `name` in `directory` another link to what `descriptor` refers to.
    ///
    /// # Errors
    /// As link(2).
    pub(super) fn link(
        &self,
        descriptor: BorrowedFd<'_>,
        directory: BorrowedFd<'_>,
        name: Component<'_>,
    ) -> io::Result<()> {
        let entry = entry_of(descriptor);
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW;
        Ok(nix::unistd::linkat(
            &self.0,
            entry.as_str(),
            directory,
            name.0,
            flags,
        )?)
    }
}

/// Name of the entry that stands for `descriptor`. Following it leads to the very inode, also where that is a
/// symbolic link, which is then not followed further, see proc_pid_fd(5).
fn entry_of(descriptor: BorrowedFd<'_>) -> String {
    descriptor.as_raw_fd().to_string()
}

/// The guest's process has not used up its own descriptors, this process has: `EMFILE` would be a lie.
fn open_error(error: Errno) -> io::Error {
    match error {
        Errno::EMFILE => errno(libc::ENFILE),
        other => other.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    fn refusal(name: &CStr) -> Option<i32> {
        Component::new(name)
            .err()
            .and_then(|error| error.raw_os_error())
    }

    #[test]
    fn only_names_of_single_entries_pass() {
        assert_eq!(refusal(c""), Some(libc::ENOENT));
        assert_eq!(refusal(c"."), Some(libc::EINVAL));
        assert_eq!(refusal(c".."), Some(libc::EINVAL));
        assert_eq!(refusal(c"/etc"), Some(libc::EINVAL));
        assert_eq!(refusal(c"a/b"), Some(libc::EINVAL));
        assert_eq!(refusal(c"..."), None);
        assert_eq!(refusal(c"\xff\x01 name\n"), None);
        let longest = std::ffi::CString::new("n".repeat(255)).unwrap();
        assert_eq!(refusal(&longest), None);
        let longer = std::ffi::CString::new("n".repeat(256)).unwrap();
        assert_eq!(refusal(&longer), Some(libc::ENAMETOOLONG));
    }

    #[test]
    fn a_symbolic_link_is_opened_itself_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).unwrap();
        let root = std::fs::File::open(folder.path()).unwrap();
        let name = Component::new(c"link").unwrap();
        let link = open(root.as_fd(), name, OFlag::O_PATH, Mode::empty()).unwrap();
        let target = nix::fcntl::readlinkat(&link, c"").unwrap();
        assert_eq!(target, "/etc");
        let error = open(root.as_fd(), name, OFlag::O_RDONLY, Mode::empty()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
    }
}
