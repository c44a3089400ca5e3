//! What the host says on the control connection once the guest is up.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::time::Duration;

use nix::sys::epoll::EpollFlags as Flags;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_settime};
use protocol::{ClockTime, FrameError, GuestMessage, HostMessage};

use super::{Drain, Server};
use crate::kernel_log;

/// A message of the host, without what it borrows.
enum Request {
    Shutdown(Duration),
    Drain,
    Measure,
    SetClock(ClockTime),
    /// One that does not belong here.
    Other,
}

impl Server {
    /// Waits for the host: to say something or, while it does not take the answers, for that.
    pub(super) fn watch_control(&mut self) -> io::Result<()> {
        let flags = match self.control.is_flushed() {
            true => Flags::EPOLLIN,
            false => Flags::EPOLLOUT,
        };
        self.control.watch(Some(flags))
    }

    /// The control connection can be read, or written again.
    pub(super) fn on_control(&mut self) {
        if let Err(error) = self.hear_host() {
            self.lose_host(error);
        }
    }

    fn hear_host(&mut self) -> Result<(), FrameError> {
        self.control.flush()?;
        match self.control.receive() {
            Ok(0) => return Err(FrameError::Io(ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            result => drop(result?),
        }
        while let Some(request) = self.next_request()? {
            match request {
                Request::Shutdown(grace) => {
                    self.control.send(&GuestMessage::Stopping)?;
                    self.begin_stop(grace, true);
                }
                Request::Drain => self.begin_drain(),
                Request::Measure => self.measure()?,
                Request::SetClock(time) => set_clock(time),
                Request::Other => {
                    let what = "a message that is not for this place";
                    return Err(FrameError::Io(io::Error::other(what)));
                }
            }
        }
        Ok(self.watch_control()?)
    }

    fn next_request(&mut self) -> Result<Option<Request>, FrameError> {
        let message = self.control.next_message()?;
        Ok(message.map(|message| match message {
            HostMessage::Shutdown(shutdown) => {
                Request::Shutdown(Duration::from_millis(shutdown.grace_ms.into()))
            }
            HostMessage::Drain => Request::Drain,
            HostMessage::Measure => Request::Measure,
            HostMessage::SetClock(time) => Request::SetClock(time),
            _ => Request::Other,
        }))
    }

    /// Without the host the guest has no purpose.
    fn lose_host(&mut self, reason: impl Display) {
        kernel_log::debug(format_args!("the host is lost: {reason}"));
        let _ = self.control.watch(None);
        self.begin_stop(Duration::ZERO, false);
    }

    fn begin_drain(&mut self) {
        // Those that are refused are not waited for: whether their clients listen is their business.
        let busy = self
            .sessions
            .values()
            .filter(|session| session.is_running());
        let left = busy.map(|session| session.id()).collect();
        self.refuse_new();
        self.drain = Some(Drain { left, wanted: true });
    }

    /// Tells the host when the last session has ended.
    pub(super) fn finish_drain(&mut self) {
        let Some(drain) = &mut self.drain else {
            return;
        };
        let is_busy = |id: &u64| {
            self.sessions
                .get(id)
                .is_some_and(|session| session.is_busy())
        };
        drain.left.retain(is_busy);
        if !drain.left.is_empty() || !std::mem::take(&mut drain.wanted) {
            return;
        }
        let told = self.control.send(&GuestMessage::Drained);
        if let Err(error) = told.and_then(|()| Ok(self.watch_control()?)) {
            self.lose_host(error);
        }
    }

    fn measure(&mut self) -> Result<(), FrameError> {
        match self.guest.gauges.read() {
            Ok(measurement) => self.control.send(&GuestMessage::Measured(measurement)),
            Err(error) => {
                // The host has figures of its own when there is no answer.
                kernel_log::debug(format_args!("no measurement: {error}"));
                Ok(())
            }
        }
    }
}

/// Steps the wall clock. The kernel checks the time (clock_settime(2)).
fn set_clock(time: ClockTime) {
    let time = TimeSpec::new(time.seconds, time.nanoseconds.into());
    if let Err(error) = clock_settime(ClockId::CLOCK_REALTIME, time) {
        kernel_log::debug(format_args!("the clock cannot be set: {error}"));
    }
}
