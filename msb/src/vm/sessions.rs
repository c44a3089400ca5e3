//! Counts the sessions of a machine: connections to its agent, whoever opened them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::mpsc::Sender;

use nix::sys::eventfd::{EfdFlags, EventFd};
use vmm::virtio::vsock::{Flow, Observer, Tap};

use super::log::Log;
use super::supervisor::Event;

/// Tells the supervisor of sessions, and shows them to the log.
pub(super) struct Sessions {
    events: Sender<Event>,
    log: Option<Log>,
    /// In the place of the log's: nothing is stalled without it.
    never: EventFd,
}

impl Sessions {
    /// # Errors
    /// When there can be no more descriptors.
    pub(super) fn new(events: Sender<Event>, log: Option<Log>) -> io::Result<Sessions> {
        Ok(Sessions {
            events,
            log,
            never: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
        })
    }
}

impl Observer for Sessions {
    fn connected(&mut self) -> Box<dyn Tap> {
        // Without a supervisor the machine is ending.
        let _ = self.events.send(Event::SessionOpened);
        Box::new(Session {
            events: self.events.clone(),
            log: self.log.as_mut().map(Observer::connected),
        })
    }

    fn resumption(&self) -> BorrowedFd<'_> {
        match &self.log {
            Some(log) => log.resumption(),
            None => self.never.as_fd(),
        }
    }
}

/// One session.
struct Session {
    events: Sender<Event>,
    log: Option<Box<dyn Tap>>,
}

impl Tap for Session {
    fn data(&mut self, bytes: &[u8]) -> Flow {
        match &mut self.log {
            Some(log) => log.data(bytes),
            None => Flow::Passed,
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.events.send(Event::SessionClosed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_session_is_told_of_when_it_begins_and_when_it_ends() {
        let (sender, events) = channel();
        let mut sessions = Sessions::new(sender, None).unwrap();
        let mut session = sessions.connected();
        assert!(matches!(events.try_recv(), Ok(Event::SessionOpened)));
        assert_eq!(session.data(b"x"), Flow::Passed);
        assert!(events.try_recv().is_err());
        drop(session);
        assert!(matches!(events.try_recv(), Ok(Event::SessionClosed)));
    }
}
