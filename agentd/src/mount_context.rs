//! File systems that are configured and mounted by descriptors (fsopen(2), fspick(2)), and so in no mount table.

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;

/// Values of `linux/mount.h` that the libc crate does not have.
const FSOPEN_CLOEXEC: libc::c_uint = 0x1;
const FSPICK_CLOEXEC: libc::c_uint = 0x1;
const FSPICK_EMPTY_PATH: libc::c_uint = 0x8;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const FSMOUNT_CLOEXEC: libc::c_uint = 0x1;
const MOUNT_ATTR_RDONLY: libc::c_uint = 0x1;
const MOUNT_ATTR_NODEV: libc::c_uint = 0x4;

/// A file system that is being configured.
#[derive(Debug)]
pub(crate) struct MountContext(OwnedFd);

impl MountContext {
    /// That which is mounted at a directory, whether the mount is in a table or not.
    pub(crate) fn of(mounted: BorrowedFd<'_>) -> io::Result<MountContext> {
        // SAFETY: the kernel reads the path, which ends with a zero byte.
        let context = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_fspick,
                mounted.as_raw_fd(),
                c"".as_ptr(),
                FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
            )
        })?;
        own(context).map(MountContext)
    }

    /// An overlay of directories, the highest first, that nobody can write.
    pub(crate) fn overlay(layers: [BorrowedFd<'_>; 2]) -> io::Result<MountContext> {
        // SAFETY: the kernel reads the name, which ends with a zero byte.
        let context = Errno::result(unsafe {
            libc::syscall(libc::SYS_fsopen, c"overlay".as_ptr(), FSOPEN_CLOEXEC)
        })?;
        let context = MountContext(own(context)?);
        let [upper, lower] = layers.map(|layer| format!("/proc/self/fd/{}", layer.as_raw_fd()));
        context.set(c"lowerdir", &CString::new(format!("{upper}:{lower}"))?)?;
        // As the overlay was mounted in which directories were renamed.
        context.set(c"redirect_dir", c"follow")?;
        context.configure(FSCONFIG_CMD_CREATE, None, None)?;
        Ok(context)
    }

    /// Makes it read-only: writes everything back, and leaves the file system as one that was unmounted.
    pub(crate) fn make_read_only(&self) -> io::Result<()> {
        self.configure(FSCONFIG_SET_FLAG, Some(c"ro"), None)?;
        self.configure(FSCONFIG_CMD_RECONFIGURE, None, None)
    }

    /// Mounts a new one where only the descriptor that is returned leads.
    pub(crate) fn mount_read_only(&self) -> io::Result<OwnedFd> {
        // SAFETY: fsmount(2) touches no memory of this process.
        let mounted = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_fsmount,
                self.0.as_raw_fd(),
                FSMOUNT_CLOEXEC,
                MOUNT_ATTR_RDONLY | MOUNT_ATTR_NODEV,
            )
        })?;
        own(mounted)
    }

    fn set(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.configure(FSCONFIG_SET_STRING, Some(key), Some(value))
    }

    /// Calls fsconfig(2).
    fn configure(
        &self,
        command: libc::c_uint,
        key: Option<&CStr>,
        value: Option<&CStr>,
    ) -> io::Result<()> {
        let pointer = |text: Option<&CStr>| text.map_or(ptr::null(), CStr::as_ptr);
        // SAFETY: the kernel reads key and value, which end with zero bytes; null is none.
        let result = unsafe {
            libc::syscall(
                libc::SYS_fsconfig,
                self.0.as_raw_fd(),
                command,
                pointer(key),
                pointer(value),
                0,
            )
        };
        Errno::result(result)?;
        Ok(())
    }
}

/// The descriptor that a system call has returned.
fn own(descriptor: libc::c_long) -> io::Result<OwnedFd> {
    let descriptor = i32::try_from(descriptor).map_err(io::Error::other)?;
    // SAFETY: the call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}
