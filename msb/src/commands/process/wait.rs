//! Waiting for descriptors.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::Context;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Waits until one of the descriptors is ready or the time is over. Says which are ready; those that are not there never are.
///
/// # Errors
/// As poll(2).
pub(in crate::commands) fn wait_for<const N: usize>(
    descriptors: [Option<BorrowedFd<'_>>; N],
    deadline: Option<Instant>,
) -> anyhow::Result<[bool; N]> {
    let mut entries: Vec<_> = descriptors
        .iter()
        .flatten()
        .map(|descriptor| PollFd::new(*descriptor, PollFlags::POLLIN))
        .collect();
    let timeout = match deadline {
        None => PollTimeout::NONE,
        // poll(2) counts whole milliseconds: one more, so as not to wait for none again and again. The
        // longest wait that it knows is some weeks; the caller waits again after it.
        Some(deadline) => {
            let left = deadline.saturating_duration_since(Instant::now());
            PollTimeout::try_from(left.saturating_add(Duration::from_millis(1)))
                .unwrap_or(PollTimeout::MAX)
        }
    };
    match poll(&mut entries, timeout) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => return Err(error).context("cannot wait for events"),
    }
    let mut entries = entries.iter();
    let is_ready = |entry: &PollFd<'_>| entry.revents().is_some_and(|events| !events.is_empty());
    Ok(descriptors.map(|descriptor| descriptor.is_some() && entries.next().is_some_and(is_ready)))
}
