//! Stopping the guest: everybody is asked to end, and then made to.

use std::time::{Duration, Instant};

use super::Server;
use crate::children::{self, Children};
use crate::session::Session;

/// How long processes may take to end after SIGKILL, and sessions to send what is left.
const KILL_TIME: Duration = Duration::from_secs(1);

/// The guest is being stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    /// SIGKILL has been sent.
    killed: bool,
    /// When SIGKILL is due or, after it, the wait is over.
    pub(super) deadline: Instant,
    /// The host is there and waits for an answer.
    pub(super) wanted: bool,
}

impl Server {
    /// Asks everybody to end, or makes them. Who asks again can only shorten the time.
    pub(super) fn begin_stop(&mut self, grace: Duration, wanted: bool) {
        self.listener = None;
        self.refuse_new();
        let deadline = Instant::now() + grace;
        match self.stop {
            Some(stop @ Stop { killed: true, .. }) => self.stop = Some(Stop { wanted, ..stop }),
            _ if grace.is_zero() => self.kill(wanted),
            Some(stop) => {
                self.stop = Some(Stop {
                    deadline: deadline.min(stop.deadline),
                    wanted,
                    ..stop
                });
            }
            None => {
                children::signal_everyone(libc::SIGTERM);
                // Those that are stopped would not notice.
                children::signal_everyone(libc::SIGCONT);
                self.stop = Some(Stop {
                    killed: false,
                    deadline,
                    wanted,
                });
            }
        }
    }

    fn kill(&mut self, wanted: bool) {
        children::signal_everyone(libc::SIGKILL);
        self.stop = Some(Stop {
            killed: true,
            deadline: Instant::now() + KILL_TIME,
            wanted,
        });
    }

    /// Sends SIGKILL when the grace is over.
    pub(super) fn expire_stop(&mut self, now: Instant) {
        if let Some(stop) = self.stop
            && !stop.killed
            && stop.deadline <= now
        {
            self.kill(stop.wanted);
        }
    }

    /// Whether nothing is left to wait for, or the time for it is over.
    pub(super) fn is_stopped(&self, stop: Stop) -> bool {
        let is_quiet =
            children::look() == Children::None && !self.sessions.values().any(Session::is_busy);
        is_quiet || (stop.killed && stop.deadline <= Instant::now())
    }
}
