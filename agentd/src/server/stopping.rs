//! Stopping the guest: everybody is asked to end, and then made to.

use std::time::{Duration, Instant};

use super::Server;
use crate::children::{self, Children};
use crate::init;
use crate::session::Session;

/// How long processes may take to end after SIGKILL, and sessions to send what is left.
const KILL_TIME: Duration = Duration::from_secs(1);

/// How long an init may take beyond the grace to end what is its own, and the machine.
const INIT_TIME: Duration = Duration::from_secs(5);

/// The guest is being stopped.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stop {
    step: Step,
    /// When the step is over, whatever has come of it.
    pub(super) deadline: Instant,
    /// Until when an init, if there is one, may go about it its own way.
    init_until: Option<Instant>,
    /// The host is there and waits for an answer.
    pub(super) wanted: bool,
}

/// How far the stop is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Processes that have a way of their own have been asked in that way, the other sessions' with SIGTERM. What belongs to no
    /// session waits for the first to end: it may be what they are about to end in good order.
    OwnAsked,
    /// SIGTERM has been sent.
    Asked,
    /// SIGKILL has been sent.
    Killed,
    /// The init has been asked to end the machine.
    InitAsked,
}

impl Step {
    /// Whether nobody has been made to end yet.
    fn is_request(self) -> bool {
        matches!(self, Step::OwnAsked | Step::Asked)
    }
}

impl Server {
    /// Asks everybody to end, or makes them. Who asks again can only shorten the time.
    pub(super) fn begin_stop(&mut self, grace: Duration, wanted: bool) {
        self.listener = None;
        self.refuse_new();
        let deadline = Instant::now() + grace;
        let asks_init = self.guest.has_init && !grace.is_zero();
        let init_until = asks_init.then_some(deadline + INIT_TIME);
        let Some(stop) = self.stop else {
            self.stop = Some(Stop {
                step: Step::OwnAsked,
                deadline,
                init_until,
                wanted,
            });
            if grace.is_zero() {
                return self.kill();
            }
            return self.ask_sessions();
        };
        let init_until = stop.init_until.min(init_until);
        self.stop = Some(Stop {
            deadline: match stop.step {
                Step::OwnAsked | Step::Asked => stop.deadline.min(deadline),
                Step::Killed => stop.deadline,
                Step::InitAsked => init_until.unwrap_or(deadline),
            },
            init_until,
            wanted,
            ..stop
        });
        if stop.step.is_request() && grace.is_zero() {
            self.kill();
        }
    }

    /// Asks the sessions' processes to end, if some have a way of their own; else everyone.
    fn ask_sessions(&mut self) {
        if !self.sessions.values().any(Session::has_own_end) {
            return self.ask_everyone();
        }
        for session in self.sessions.values() {
            if !session.ask_to_end() {
                session.signal(libc::SIGTERM);
                session.signal(libc::SIGCONT);
            }
        }
    }

    fn ask_everyone(&mut self) {
        if let Some(stop) = &mut self.stop {
            stop.step = Step::Asked;
        }
        self.signal_all(libc::SIGTERM);
        // Those that are stopped would not notice.
        self.signal_all(libc::SIGCONT);
    }

    fn kill(&mut self) {
        self.signal_all(libc::SIGKILL);
        if let Some(stop) = &mut self.stop {
            stop.step = Step::Killed;
            stop.deadline = Instant::now() + KILL_TIME;
        }
    }

    /// Sends `signal` to everyone; with an init, which has processes of its own, to those of the sessions.
    fn signal_all(&self, signal: i32) {
        if !self.guest.has_init {
            return children::signal_everyone(signal);
        }
        for session in self.sessions.values() {
            session.signal(signal);
        }
    }

    /// Sends SIGTERM to everyone when nobody is left who has another way, and SIGKILL when the grace is over.
    pub(super) fn advance_stop(&mut self, now: Instant) {
        let Some(stop) = self.stop.filter(|stop| stop.step.is_request()) else {
            return;
        };
        if stop.deadline <= now {
            self.kill();
        } else if stop.step == Step::OwnAsked && !self.sessions.values().any(Session::has_own_end) {
            self.ask_everyone();
        }
    }

    /// Whether nothing is left to wait for, or the time for it is over.
    pub(super) fn is_stopped(&self, stop: Stop) -> bool {
        let is_quiet =
            children::look() == Children::None && !self.sessions.values().any(Session::is_busy);
        is_quiet || (!stop.step.is_request() && stop.deadline <= Instant::now())
    }

    /// After the sessions: asks the init to end the machine, and tells whether it has still time for that.
    pub(super) fn await_init(&mut self, stop: Stop) -> bool {
        let Some(until) = stop.init_until else {
            return false;
        };
        if stop.step != Step::InitAsked {
            init::ask_to_reboot();
            self.stop = Some(Stop {
                step: Step::InitAsked,
                deadline: until,
                ..stop
            });
        }
        Instant::now() < until
    }
}
