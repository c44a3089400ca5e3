//! Waiting for descriptors without a thread.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Of a descriptor, whether there is something to read. It stands for the same opening as `descriptor`, which may be closed.
///
/// # Errors
/// When the descriptor is of a kind that cannot be waited for.
pub(super) fn readable(descriptor: BorrowedFd<'_>) -> io::Result<AsyncFd<OwnedFd>> {
    let own = descriptor.try_clone_to_owned()?;
    // SAFETY: an OwnedFd is open, and the same descriptor, as long as it lives, and nobody else closes it.
    let registered = unsafe { AsyncFd::register_with_interest(own, Interest::READABLE) };
    Ok(registered?)
}
