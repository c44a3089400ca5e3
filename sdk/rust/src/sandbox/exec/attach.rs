//! Joining the terminal of this process to that of a command.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::thread;

use bytes::Bytes;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigHandler, Signal, raise, signal};
use nix::unistd::pipe2;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;

use super::terminal::{self, RawMode};
use super::{ExecEvent, ExecExit, Execution};
use crate::error::{MicrosandboxError, failed};

/// Why a terminal is no longer joined to a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachEnd {
    /// The command ended.
    Exited(ExecExit),
    /// The keys for leaving it were pressed.
    Detached,
}

impl Execution {
    /// Joins the terminal of this process, in raw mode, to that of the command, until the command ends or somebody
    /// presses the keys `detach_keys` one after the other. Then, on errors and before a signal ends this process (SIGTERM, SIGHUP),
    /// the terminal is put back as it was.
    ///
    /// # Errors
    /// [`MicrosandboxError::Unsupported`] when this process or the command has no terminal; as [`recv`](Self::recv).
    pub async fn join_terminal(
        mut self,
        detach_keys: Option<&[u8]>,
    ) -> Result<AttachEnd, MicrosandboxError> {
        let here = Path::new("/dev/tty");
        let mut resized = listen(SignalKind::window_change())?;
        let mut terminated = listen(SignalKind::terminate())?;
        let mut hung_up = listen(SignalKind::hangup())?;
        let size = terminal::size()?;
        let mode = RawMode::enter()?;
        let mut keys = Keys::read().map_err(failed("read", here))?;
        let mut detach = DetachKeys::new(detach_keys);
        let mut stdin = self.stdin();
        let controls = self.controls();
        // It may have changed since the command was begun.
        controls.resize(size.rows, size.columns).await?;
        let mut typed = Vec::new();
        loop {
            tokio::select! {
                event = self.recv() => match event? {
                    Some(ExecEvent::Stdout(data) | ExecEvent::Stderr(data)) => {
                        show(data).await.map_err(failed("write to", here))?;
                    }
                    Some(ExecEvent::Exited(exit)) => return Ok(AttachEnd::Exited(exit)),
                    Some(ExecEvent::Started { .. }) => {}
                    None => return Ok(AttachEnd::Detached),
                },
                pressed = keys.pressed.recv(), if typed.is_empty() => match pressed {
                    Some(pressed) => match detach.take(&pressed) {
                        Some(rest) => typed = rest,
                        None => return Ok(AttachEnd::Detached),
                    },
                    // The terminal is gone, and with it whoever sat there.
                    None => return Ok(AttachEnd::Detached),
                },
                written = write(&mut stdin, &typed), if !typed.is_empty() => {
                    typed.drain(..written);
                }
                _ = resized.recv() => {
                    let size = terminal::size()?;
                    controls.resize(size.rows, size.columns).await?;
                }
                _ = terminated.recv() => return end_by(mode, Signal::SIGTERM),
                _ = hung_up.recv() => return end_by(mode, Signal::SIGHUP),
            }
        }
    }
}

/// Writes a part of what was typed; all of it if nobody reads it any more.
async fn write(stdin: &mut Option<super::StdinWriter>, typed: &[u8]) -> usize {
    match stdin {
        Some(writer) => writer.write(typed).await.unwrap_or(typed.len()),
        None => typed.len(),
    }
}

/// Writes what the terminal shows, which may take as long as its reader wants.
async fn show(data: Bytes) -> io::Result<()> {
    let write = move || {
        let mut output = io::stdout().lock();
        output.write_all(&data)?;
        output.flush()
    };
    tokio::task::spawn_blocking(write).await?
}

fn listen(kind: SignalKind) -> Result<unix::Signal, MicrosandboxError> {
    unix::signal(kind).map_err(failed("listen to signals for", Path::new("/dev/tty")))
}

/// Puts the terminal back and lets a signal do what it would have done if nobody had listened to it.
fn end_by(mode: RawMode, number: Signal) -> Result<AttachEnd, MicrosandboxError> {
    drop(mode);
    // SAFETY: the default action is no handler, so nothing of this program runs in a signal's context.
    let reset = unsafe { signal(number, SigHandler::SigDfl) };
    reset
        .and_then(|_| raise(number))
        .map_err(|error| failed("leave", Path::new("/dev/tty"))(error.into()))?;
    Ok(AttachEnd::Detached)
}

/// What is typed, read by a thread until this value is dropped.
struct Keys {
    pressed: mpsc::Receiver<Vec<u8>>,
    /// Hangs up for the thread.
    _alive: OwnedFd,
}

impl Keys {
    fn read() -> io::Result<Keys> {
        let (dropped, alive) = pipe2(OFlag::O_CLOEXEC)?;
        let terminal = File::from(io::stdin().as_fd().try_clone_to_owned()?);
        let (sender, pressed) = mpsc::channel(1);
        thread::Builder::new()
            .name("terminal-in".to_owned())
            .spawn(move || read_keys(terminal, &dropped, &sender))?;
        Ok(Keys {
            pressed,
            _alive: alive,
        })
    }
}

fn read_keys(mut terminal: File, dropped: &OwnedFd, pressed: &mpsc::Sender<Vec<u8>>) {
    let mut buffer = [0; 4096];
    loop {
        let mut descriptors = [
            PollFd::new(terminal.as_fd(), PollFlags::POLLIN),
            PollFd::new(dropped.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut descriptors, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            Err(_) => return,
            Ok(_) => {}
        }
        let is_dropped = descriptors[1]
            .revents()
            .is_some_and(|events| !events.is_empty());
        if is_dropped {
            return;
        }
        match terminal.read(&mut buffer) {
            Ok(count @ 1..) => {
                let typed = buffer.get(..count).unwrap_or_default().to_vec();
                if pressed.blocking_send(typed).is_err() {
                    return;
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
                ) => {}
            Ok(0) | Err(_) => return,
        }
    }
}

/// Looks for the keys for leaving among those that are typed. The first ones are kept back until it is clear that the others
/// do not follow.
struct DetachKeys<'k> {
    keys: &'k [u8],
    /// How many of them were pressed.
    pressed: usize,
}

impl<'k> DetachKeys<'k> {
    fn new(keys: Option<&'k [u8]>) -> DetachKeys<'k> {
        DetachKeys {
            keys: keys.unwrap_or_default(),
            pressed: 0,
        }
    }

    /// What of `typed` is for the command; `None` when it is to be left.
    fn take(&mut self, typed: &[u8]) -> Option<Vec<u8>> {
        let mut rest = Vec::with_capacity(typed.len());
        for &key in typed {
            if self.keys.get(self.pressed) != Some(&key) {
                rest.extend_from_slice(self.keys.get(..self.pressed).unwrap_or_default());
                self.pressed = 0;
            }
            if self.keys.get(self.pressed) == Some(&key) {
                self.pressed = self.pressed.saturating_add(1);
                if self.pressed == self.keys.len() {
                    return None;
                }
            } else {
                rest.push(key);
            }
        }
        Some(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_for_leaving_are_found_and_all_others_passed_on() {
        let mut keys = DetachKeys::new(Some(b"\x10\x11"));
        assert_eq!(keys.take(b"ab").as_deref(), Some(&b"ab"[..]));
        assert_eq!(keys.take(b"a\x10").as_deref(), Some(&b"a"[..]));
        assert_eq!(keys.take(b"b").as_deref(), Some(&b"\x10b"[..]));
        assert_eq!(keys.take(b"\x10\x10").as_deref(), Some(&b"\x10"[..]));
        assert_eq!(keys.take(b"\x11"), None);
        let mut none = DetachKeys::new(None);
        assert_eq!(none.take(b"\x10\x11").as_deref(), Some(&b"\x10\x11"[..]));
    }
}
