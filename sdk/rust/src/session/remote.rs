//! What the input thread of a session is told by others.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};
use protocol::TerminalSize;

/// Most signals that wait to be sent. More of them while the connection is stuck say nothing new.
const MAX_SIGNALS: usize = 16;

/// The process at the other end: signals and terminal sizes for it. Calls never wait.
#[derive(Debug)]
pub struct Remote {
    state: Mutex<State>,
    /// Counts up when there is something in the state.
    wake: EventFd,
}

/// What waits to be carried out.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Signals to be sent, oldest first.
    pub(super) signals: Vec<i32>,
    /// Latest size of the terminal, if it has changed.
    pub(super) size: Option<TerminalSize>,
    /// New credit for standard input, in bytes.
    pub(super) credit: u64,
    /// The process takes no more input.
    pub(super) input_closed: bool,
    /// The session is over.
    pub(super) finished: bool,
}

impl Remote {
    /// With so many bytes of credit for standard input.
    pub(super) fn new(credit: u32) -> io::Result<Remote> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let state = State {
            credit: credit.into(),
            ..State::default()
        };
        Ok(Remote {
            state: Mutex::new(state),
            // The first credit is news.
            wake: EventFd::from_value_and_flags(1, flags)?,
        })
    }

    /// Sends a signal to the process group.
    pub fn signal(&self, signal: i32) {
        self.change(|state| {
            if state.signals.len() < MAX_SIGNALS {
                state.signals.push(signal);
            }
        });
    }

    /// The terminal has this size now.
    pub fn resize(&self, size: TerminalSize) {
        self.change(|state| state.size = Some(size));
    }

    pub(super) fn add_credit(&self, bytes: u32) {
        self.change(|state| state.credit = state.credit.saturating_add(bytes.into()));
    }

    pub(super) fn close_input(&self) {
        self.change(|state| state.input_closed = true);
    }

    pub(super) fn finish(&self) {
        self.change(|state| state.finished = true);
    }

    /// Readable when [`take`](Self::take) has something new.
    pub(super) fn changed(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }

    /// Takes what waits; credit and all are the caller's from here on.
    pub(super) fn take(&self) -> State {
        // The counter is only there to be polled; an error means that it is zero already.
        let _ = self.wake.read();
        std::mem::take(&mut self.lock())
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        // Fails only when the counter is near its limit, and then it is readable.
        let _ = self.wake.write(1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change leaves a state that is half made.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
