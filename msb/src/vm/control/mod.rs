//! The machine's side of `control.sock`: one thread, which waits for nobody in particular.
//!
//! What only the machine can decide goes to its [supervisor](super::supervisor) as an event, and the reply comes back as a
//! [`Notice`]. Sessions that survive their clients are [kept](super::kept) here.

mod attached;
mod client;
mod outgoing;
mod requests;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::thread::{self, JoinHandle};

use microsandbox::control::{ControlReply, Ended, MachineState};
use microsandbox::protocol::Exec;
use microsandbox::run_directory::RunDirectory;
use nix::sys::eventfd::{EfdFlags, EventFd};

pub(super) use self::outgoing::Outgoing;
use self::server::{Machine, Server};
use super::supervisor::Event;

/// A client, as long as it is connected; no number is given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ClientId(pub(super) u64);

/// What the thread is told.
#[derive(Debug)]
pub(super) enum Notice {
    /// To answer a client.
    Reply(ClientId, ControlReply),
    /// The machine is in this state.
    State(MachineState),
    /// To start the sandbox's own process.
    StartMain(Box<Exec>),
    /// The machine is no more: clients get what is meant for them, and the thread ends.
    Ended(Box<Ended>),
}

/// The thread that serves the socket.
#[derive(Debug)]
pub(super) struct ControlThread {
    notices: Sender<Notice>,
    wake: Arc<EventFd>,
    thread: JoinHandle<()>,
}

impl ControlThread {
    /// Serves `listener` for a machine whose agent is reached in `directory`, and which has a process of its own if `has_main`.
    /// What clients ask goes to `events`.
    ///
    /// # Errors
    /// When there can be no more threads or descriptors.
    pub(super) fn start(
        listener: UnixListener,
        directory: RunDirectory,
        has_main: bool,
        events: Sender<Event>,
    ) -> io::Result<ControlThread> {
        let (notices, received) = channel();
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let wake = Arc::new(EventFd::from_flags(flags)?);
        let machine = Machine {
            directory,
            has_main,
            events,
        };
        let server = Server::new(listener, Arc::clone(&wake), received, machine)?;
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || server.run())?;
        Ok(ControlThread {
            notices,
            wake,
            thread,
        })
    }

    /// Tells the thread something.
    pub(super) fn tell(&self, notice: Notice) {
        // It ends before it is told to when it has panicked, which is reported.
        let _ = self.notices.send(notice);
        // Fails only when the counter is near its limit, and then it is readable.
        let _ = self.wake.write(1);
    }

    /// Tells everybody how the machine ended, and waits until they know, or take too long.
    pub(super) fn finish(self, ended: Ended) {
        self.tell(Notice::Ended(Box::new(ended)));
        let _ = self.thread.join();
    }
}
