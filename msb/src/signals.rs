//! Signals to `msb`, as something to wait for.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::signal::{SigHandler, SigSet, Signal, signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The signals that `msb` handles: those that end a program, and the one for a new size of the
/// terminal.
const HANDLED: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGWINCH,
];

/// Signals that arrive as data instead of interrupting anything.
#[derive(Debug)]
pub(crate) struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    /// Takes over the signals of this process. To be called before there are other threads: they
    /// inherit that these signals are blocked.
    ///
    /// # Errors
    /// As signalfd(2).
    pub(crate) fn take_over() -> io::Result<Signals> {
        let set: SigSet = HANDLED.into_iter().collect();
        set.thread_block()?;
        // Beyond a limit on the size of files (`ulimit -f`) a write fails; it does not end the process.
        // SAFETY: no handler is installed, so there is nothing that could run.
        unsafe { signal(Signal::SIGXFSZ, SigHandler::SigIgn) }?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        Ok(Signals {
            descriptor: SignalFd::with_flags(&set, flags)?,
        })
    }

    /// The next signal, if there is one.
    ///
    /// # Errors
    /// As read(2).
    pub(crate) fn next(&self) -> io::Result<Option<Signal>> {
        let Some(info) = self.descriptor.read_signal()? else {
            return Ok(None);
        };
        let number = i32::try_from(info.ssi_signo).unwrap_or_default();
        Ok(Signal::try_from(number).ok())
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
