//! The disk of the root's private layer.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::sys::statvfs::fstatvfs;

/// Values of `linux/mount.h` that the libc crate does not have.
const FSPICK_CLOEXEC: libc::c_uint = 0x1;
const FSPICK_EMPTY_PATH: libc::c_uint = 0x8;
const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;

/// Leads to the file system, which is in no mount table: only the overlay uses it.
#[derive(Debug)]
pub(crate) struct Upper(OwnedFd);

impl Upper {
    /// The file system that is mounted at `place`; that mount may disappear afterwards.
    pub(crate) fn open(place: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(open(place, flags, Mode::empty())?))
    }

    /// Bytes in use and free.
    pub(crate) fn space(&self) -> io::Result<(u64, u64)> {
        let found = fstatvfs(&self.0)?;
        let used = found.blocks().saturating_sub(found.blocks_free());
        let bytes = |blocks: u64| blocks.saturating_mul(found.fragment_size());
        Ok((bytes(used), bytes(found.blocks_available())))
    }

    /// Writes everything back and leaves the file system as one that was unmounted, with nothing in its journal. A
    /// file that somebody still has open for writing prevents it.
    pub(crate) fn make_read_only(&self) -> io::Result<()> {
        // mount(2) remounts only what is in a mount table; fspick(2) takes the descriptor.
        // SAFETY: the kernel reads the path, which ends with a zero byte.
        let context = Errno::result(unsafe {
            libc::syscall(
                libc::SYS_fspick,
                self.0.as_raw_fd(),
                c"".as_ptr(),
                FSPICK_CLOEXEC | FSPICK_EMPTY_PATH,
            )
        })?;
        let context = i32::try_from(context).map_err(io::Error::other)?;
        // SAFETY: fspick has just made this descriptor, and nobody else knows it.
        let context = unsafe { OwnedFd::from_raw_fd(context) };
        configure(&context, FSCONFIG_SET_FLAG, Some(c"ro"))?;
        configure(&context, FSCONFIG_CMD_RECONFIGURE, None)
    }
}

/// Calls fsconfig(2) with a key and no value.
fn configure(context: &OwnedFd, command: libc::c_uint, key: Option<&CStr>) -> io::Result<()> {
    let key = key.map_or(ptr::null(), CStr::as_ptr);
    let value: *const libc::c_void = ptr::null();
    // SAFETY: the kernel reads the key, which ends with a zero byte; null is no value.
    let result = unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            context.as_raw_fd(),
            command,
            key,
            value,
            0,
        )
    };
    Errno::result(result)?;
    Ok(())
}
