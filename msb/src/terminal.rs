//! The terminal that `msb` runs on.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::sync::{Mutex, PoisonError};

use microsandbox::protocol::TerminalSize;
use nix::sys::termios::{self, SetArg, Termios};

/// Size that a terminal is said to have when nothing better is known.
const USUAL_SIZE: TerminalSize = TerminalSize {
    rows: 24,
    columns: 80,
};

/// The terminal in raw mode and how it was before; for ends that run no destructors.
static SAVED: Mutex<Option<(File, Termios)>> = Mutex::new(None);

/// The terminal of standard input in raw mode, until this value is dropped: every key is a byte for
/// the guest, whose own terminal does the rest.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    /// Puts the terminal of standard input into raw mode.
    ///
    /// # Errors
    /// When standard input is no terminal.
    pub(crate) fn enter() -> io::Result<RawMode> {
        // A descriptor of its own, so that it can be restored whatever becomes of standard input.
        let terminal = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let before = termios::tcgetattr(&terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        // Saved first: whatever happens from here on, it is restored.
        *SAVED.lock().unwrap_or_else(PoisonError::into_inner) = Some((terminal, before));
        let guard = RawMode(());
        termios::tcsetattr(io::stdin(), SetArg::TCSADRAIN, &raw)?;
        Ok(guard)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back, if it is in raw mode.
pub(crate) fn restore() {
    // `try_lock`: a panic inside this module must not wait for itself.
    let saved = SAVED.try_lock().ok().and_then(|mut saved| saved.take());
    if let Some((terminal, before)) = saved {
        // If the terminal is gone, there is nothing to restore.
        let _ = termios::tcsetattr(&terminal, SetArg::TCSADRAIN, &before);
    }
}

/// Whether a person sits at both ends: standard input and standard output are terminals.
pub(crate) fn is_interactive() -> bool {
    io::stdin().is_terminal() && io::stdout().is_terminal()
}

/// Size of the terminal at standard output or standard input.
pub(crate) fn size() -> TerminalSize {
    size_of(io::stdout())
        .or_else(|| size_of(io::stdin()))
        .unwrap_or(USUAL_SIZE)
}

fn size_of(terminal: impl AsFd) -> Option<TerminalSize> {
    use std::os::fd::AsRawFd;
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let descriptor = terminal.as_fd().as_raw_fd();
    // SAFETY: TIOCGWINSZ writes one `winsize` to where the pointer leads (ioctl_tty(2)).
    let result = unsafe { libc::ioctl(descriptor, libc::TIOCGWINSZ, &raw mut size) };
    // Some terminals know no size and say 0.
    (result == 0 && size.ws_row > 0 && size.ws_col > 0).then_some(TerminalSize {
        rows: size.ws_row,
        columns: size.ws_col,
    })
}
