//! A watch of a machine, without a thread that waits.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::io::unix::AsyncFd;

use super::readiness::readable;
use crate::control::{Change, ControlError, Watch};

/// How long the rest of a message may take whose beginning has come. The machine's process writes it in one go.
const REST: Duration = Duration::from_secs(1);

/// A watch of a machine.
#[derive(Debug)]
pub(super) struct Watching {
    watch: Watch,
    readable: AsyncFd<OwnedFd>,
}

impl Watching {
    /// # Errors
    /// When the connection cannot be waited for.
    pub(super) fn new(watch: Watch) -> io::Result<Watching> {
        Ok(Watching {
            readable: readable(watch.as_fd())?,
            watch,
        })
    }

    /// Waits for the next change. After [`Change::Ended`] there is none but [`Change::Gone`].
    ///
    /// # Errors
    /// When the machine's process cannot be understood.
    pub(super) async fn next(&mut self) -> Result<Change, ControlError> {
        loop {
            // What has been read already.
            match self.watch.next(Some(Duration::ZERO)) {
                Err(ControlError::TimedOut { .. }) => {}
                result => return result,
            }
            let Ok(mut ready) = self.readable.readable().await else {
                return Ok(Change::Gone);
            };
            // Readiness is of a moment in the past.
            if !has_data(&self.watch) {
                ready.clear_ready();
                continue;
            }
            match self.watch.next(Some(REST)) {
                Err(ControlError::TimedOut { .. }) => {}
                result => return result,
            }
        }
    }
}

fn has_data(watch: &Watch) -> bool {
    let mut descriptors = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
    poll(&mut descriptors, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
}
