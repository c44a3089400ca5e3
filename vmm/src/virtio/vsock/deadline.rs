//! One timer for all deadlines of the device.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

use nix::sys::timer::{Expiration, TimerSetTimeFlags};
use nix::sys::timerfd::{ClockId, TimerFd, TimerFlags};

/// A timer that is ready at the earliest deadline.
#[derive(Debug)]
pub(super) struct Timer {
    timer: TimerFd,
    earliest: Option<Instant>,
}

impl Timer {
    /// A stopped timer.
    ///
    /// # Errors
    /// As timerfd_create(2).
    pub(super) fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_CLOEXEC | TimerFlags::TFD_NONBLOCK;
        Ok(Timer {
            timer: TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?,
            earliest: None,
        })
    }

    /// The timer is ready at `deadline`, if not earlier.
    pub(super) fn not_later_than(&mut self, deadline: Option<Instant>) {
        if deadline.is_some()
            && self
                .earliest
                .is_none_or(|earliest| deadline < Some(earliest))
        {
            self.restart(deadline);
        }
    }

    /// The timer is ready at `deadline`, or never.
    pub(super) fn restart(&mut self, deadline: Option<Instant>) {
        self.earliest = deadline;
        let set = match deadline {
            None => self.timer.unset(),
            Some(deadline) => {
                // A wait of 0 would stop the timer, see timerfd_settime(2).
                let wait = deadline.saturating_duration_since(Instant::now());
                let wait = wait.max(Duration::from_millis(1));
                self.timer
                    .set(Expiration::OneShot(wait.into()), TimerSetTimeFlags::empty())
            }
        };
        if let Err(error) = set {
            tracing::warn!(%error, "cannot set the timer of the vsock device");
        }
    }
}

impl AsFd for Timer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.timer.as_fd()
    }
}
