//! A process that is no child of this one, held so that its number cannot come to mean another.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use super::readiness::readable;

/// A process, alive or not.
#[derive(Debug)]
pub(super) struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that has the number `pid` now; `None` if there is none.
    ///
    /// # Errors
    /// As pidfd_open(2).
    pub(super) fn open(pid: i32) -> io::Result<Option<Pidfd>> {
        // SAFETY: pidfd_open(2) takes two integers.
        let number = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if number < 0 {
            let error = io::Error::last_os_error();
            return match error.raw_os_error() {
                Some(libc::ESRCH | libc::EINVAL) => Ok(None),
                _ => Err(error),
            };
        }
        let number = i32::try_from(number).map_err(io::Error::other)?;
        // SAFETY: the call has just returned this descriptor, and nobody else knows it.
        Ok(Some(Pidfd(unsafe { OwnedFd::from_raw_fd(number) })))
    }

    /// Kills the process, unless it is gone.
    ///
    /// # Errors
    /// As pidfd_send_signal(2).
    pub(super) fn kill(&self) -> io::Result<()> {
        let info: *const libc::siginfo_t = std::ptr::null();
        // SAFETY: pidfd_send_signal(2) takes integers and a pointer that may be null.
        let result = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                libc::SIGKILL,
                info,
                0,
            )
        };
        let error = io::Error::last_os_error();
        if result < 0 && error.raw_os_error() != Some(libc::ESRCH) {
            return Err(error);
        }
        Ok(())
    }

    /// Waits for the end of the process.
    ///
    /// # Errors
    /// When the descriptor cannot be waited for.
    pub(super) async fn gone(&self) -> io::Result<()> {
        // A pidfd is readable from the end of its process on.
        let waiting = readable(self.0.as_fd())?;
        waiting.readable().await.map(|_| ())
    }
}
