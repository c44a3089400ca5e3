//! Waiting for a log to grow, and for the end of its writer.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use super::LogError;
use super::error::failed;
use super::writer::writer_of;

/// Waits for a log to grow.
///
/// The end of the writer's process shows by a pidfd_open(2) descriptor, whatever ended it. Its lock cannot be waited for
/// without taking it.
#[derive(Debug)]
pub(super) struct Follower {
    directory: PathBuf,
    changes: Inotify,
    writer: OwnedFd,
}

/// Why the waiting is over.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The log may have grown.
    Changed,
    /// Nobody writes it any more.
    Ended,
    /// Nobody reads it any more.
    Cancelled,
}

impl Follower {
    /// Follows the log from now on; `None` if nobody writes it.
    pub(super) fn open(directory: &Path) -> Result<Option<Follower>, LogError> {
        let Some(pid) = writer_of(directory)? else {
            return Ok(None);
        };
        let Some(writer) = process(pid).map_err(failed("follow", directory))? else {
            return Ok(None);
        };
        // A process id is given again once its process is gone, but this process has been there while the lock was held.
        if writer_of(directory)? != Some(pid) {
            return Ok(None);
        }
        let changes = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)
            .and_then(|changes| {
                let events = AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CREATE;
                changes.add_watch(directory, events)?;
                Ok(changes)
            })
            .map_err(io::Error::from)
            .map_err(failed("follow", directory))?;
        Ok(Some(Follower {
            directory: directory.to_owned(),
            changes,
            writer,
        }))
    }

    /// Waits until there is something to do, or `cancelled` is readable.
    pub(super) fn wait(&self, cancelled: BorrowedFd<'_>) -> Result<Woken, LogError> {
        let mut descriptors = [
            PollFd::new(cancelled, PollFlags::POLLIN),
            PollFd::new(self.changes.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.writer.as_fd(), PollFlags::POLLIN),
        ];
        loop {
            match poll(&mut descriptors, PollTimeout::NONE) {
                Err(nix::Error::EINTR) => continue,
                result => result
                    .map_err(io::Error::from)
                    .map_err(failed("follow", &self.directory))?,
            };
            let [cancelled, changes, writer] = descriptors.each_ref().map(|descriptor| {
                descriptor
                    .revents()
                    .is_some_and(|events| !events.is_empty())
            });
            if cancelled {
                return Ok(Woken::Cancelled);
            }
            if changes {
                // What has changed is found by reading the log.
                while self.changes.read_events().is_ok() {}
                return Ok(Woken::Changed);
            }
            if writer {
                return Ok(Woken::Ended);
            }
        }
    }
}

/// A descriptor that becomes readable when the process ends; `None` if it has ended.
fn process(pid: libc::pid_t) -> io::Result<Option<OwnedFd>> {
    // SAFETY: pidfd_open(2) takes numbers only.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    match i32::try_from(descriptor) {
        Ok(descriptor) if descriptor >= 0 => {
            // SAFETY: the kernel has just made this descriptor for us.
            Ok(Some(unsafe { OwnedFd::from_raw_fd(descriptor) }))
        }
        _ => match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
            error => Err(error),
        },
    }
}
