//! The terminal of this process.

use std::fs::File;
use std::io::{self, IsTerminal};
use std::os::fd::{AsFd, AsRawFd};

use nix::sys::termios::{self, SetArg, Termios};
use protocol::TerminalSize;

use crate::error::MicrosandboxError;

/// The terminal of standard input in raw mode, until this value is dropped: each key is a byte for the guest, whose own
/// terminal does the rest.
#[derive(Debug)]
pub(super) struct RawMode {
    /// A descriptor of its own, so that it can be restored whatever becomes of standard input.
    terminal: File,
    before: Termios,
}

impl RawMode {
    /// # Errors
    /// [`MicrosandboxError::Unsupported`] when standard input is no terminal.
    pub(super) fn enter() -> Result<RawMode, MicrosandboxError> {
        let terminal = io::stdin()
            .as_fd()
            .try_clone_to_owned()
            .map(File::from)
            .map_err(no_terminal)?;
        let before = termios::tcgetattr(&terminal).map_err(no_terminal)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        let mode = RawMode { terminal, before };
        // Now, not after pending output: that may wait for a terminal that is stopped (Ctrl-S).
        termios::tcsetattr(&mode.terminal, SetArg::TCSANOW, &raw).map_err(no_terminal)?;
        Ok(mode)
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // If the terminal is gone, there is nothing to restore.
        let _ = termios::tcsetattr(&self.terminal, SetArg::TCSANOW, &self.before);
    }
}

/// Size of the terminal of this process in characters.
///
/// # Errors
/// [`MicrosandboxError::Unsupported`] when standard input and standard output are not both terminals.
pub(super) fn size() -> Result<TerminalSize, MicrosandboxError> {
    if !io::stdin().is_terminal() || !io::stdout().is_terminal() {
        return Err(no_terminal(
            "standard input and output are not both terminals",
        ));
    }
    let mut size = libc::winsize {
        ws_row: 0,
        ws_col: 0,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // SAFETY: TIOCGWINSZ writes one `winsize` to where the pointer leads (ioctl_tty(2)).
    let result = unsafe { libc::ioctl(io::stdout().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    // Some terminals know no size and say 0.
    Ok(match (result, size.ws_row, size.ws_col) {
        (0, rows @ 1.., columns @ 1..) => TerminalSize { rows, columns },
        _ => TerminalSize {
            rows: 24,
            columns: 80,
        },
    })
}

fn no_terminal(reason: impl std::fmt::Display) -> MicrosandboxError {
    MicrosandboxError::Unsupported {
        message: format!("This process has no terminal to be joined: {reason}"),
    }
}
