//! The sessions of a machine: connections to its agent, whoever opened them. They are let in when the agent takes them, and
//! counted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;

use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::write;
use vmm::virtio::vsock::{Flow, Observer, Tap};

use super::log::Log;
use super::supervisor::Event;

/// Tells the supervisor of sessions, and shows them to the log.
pub(super) struct Sessions {
    events: Sender<Event>,
    log: Option<Log>,
    /// In the place of the log's.
    resumption: EventFd,
    /// Whether the agent takes sessions.
    open: Arc<AtomicBool>,
}

/// Lets the sessions of a machine in: those that come before wait.
#[derive(Debug)]
pub(super) struct Door {
    open: Arc<AtomicBool>,
    resumption: OwnedFd,
}

impl Door {
    /// The agent takes sessions from here on.
    pub(super) fn open(&self) {
        self.open.store(true, Ordering::SeqCst);
        // Fails only when the counter is near its limit, and then it has been written to often enough.
        let _ = write(&self.resumption, &1_u64.to_ne_bytes());
    }
}

impl Sessions {
    /// # Errors
    /// When there can be no more descriptors.
    pub(super) fn new(events: Sender<Event>, log: Option<Log>) -> io::Result<Sessions> {
        Ok(Sessions {
            events,
            log,
            resumption: EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?,
            open: Arc::default(),
        })
    }

    /// # Errors
    /// When there can be no more descriptors.
    pub(super) fn door(&self) -> io::Result<Door> {
        Ok(Door {
            open: Arc::clone(&self.open),
            resumption: self.resumption().try_clone_to_owned()?,
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

    fn admits(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn resumption(&self) -> BorrowedFd<'_> {
        match &self.log {
            Some(log) => log.resumption(),
            None => self.resumption.as_fd(),
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

    #[test]
    fn nobody_is_let_in_before_the_door_opens() {
        let sessions = Sessions::new(channel().0, None).unwrap();
        let door = sessions.door().unwrap();
        assert!(!sessions.admits());
        door.open();
        assert!(sessions.admits());
        // Who waits is told.
        assert_eq!(sessions.resumption.read().unwrap(), 1);
    }
}
