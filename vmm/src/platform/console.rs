//! Where the serial port's bytes go: to the caller's writer on a thread of its own, past a watch for the kernel's panic.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::ending::EndingReporter;
use crate::threads;

/// The machine's serial port, seen from the host.
#[derive(Default)]
pub struct Console {
    /// Gets what the guest writes. A slow writer slows the guest down.
    pub output: Option<Box<dyn Write + Send>>,
    /// What is read from here reaches the guest.
    pub input: Option<OwnedFd>,
}

/// What the kernel prints first when it panics.
const PANIC: &[u8] = b"Kernel panic - not syncing: ";
/// Longest line that is looked at.
const MAX_LINE: usize = 1024;
/// Bytes that may wait for the writer before the guest has to.
const MAX_WAITING: usize = 256 * 1024;

/// Writer of the serial port.
pub(crate) struct ConsoleLog {
    line: Vec<u8>,
    state: Arc<ConsoleState>,
    has_output: bool,
}

/// What the port, the writer's thread and the machine share.
pub(crate) struct ConsoleState {
    inner: Mutex<Inner>,
    changed: Condvar,
}

#[derive(Default)]
struct Inner {
    waiting: VecDeque<u8>,
    writing: bool,
    closed: bool,
    panic: Option<String>,
}

impl ConsoleLog {
    /// Starts the writer's thread when there is a writer.
    pub(crate) fn new(
        output: Option<Box<dyn Write + Send>>,
        ending: EndingReporter,
    ) -> io::Result<ConsoleLog> {
        let state = Arc::new(ConsoleState {
            inner: Mutex::default(),
            changed: Condvar::new(),
        });
        let has_output = output.is_some();
        if let Some(mut output) = output {
            let state = Arc::clone(&state);
            // Not joined: a writer that never returns must not keep the machine from ending.
            threads::spawn("console", &[], ending, move || state.drain(&mut *output))?;
        }
        Ok(ConsoleLog {
            line: Vec::new(),
            state,
            has_output,
        })
    }

    /// For the machine: the panic's message, and closing.
    pub(crate) fn state(&self) -> Arc<ConsoleState> {
        Arc::clone(&self.state)
    }

    fn watch(&mut self, byte: u8) {
        if byte != b'\n' {
            if self.line.len() < MAX_LINE {
                self.line.push(byte);
            }
            return;
        }
        if let Some(at) = find(&self.line, PANIC) {
            let message = self.line.get(at + PANIC.len()..).unwrap_or_default();
            let message = String::from_utf8_lossy(message).trim().to_owned();
            self.state.lock().panic.get_or_insert(message);
        }
        self.line.clear();
    }
}

impl Write for ConsoleLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.watch(*byte);
        }
        if self.has_output {
            self.state.push(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ConsoleState {
    /// The message of the guest's first kernel panic.
    pub(crate) fn panic(&self) -> Option<String> {
        self.lock().panic.clone()
    }

    /// No more bytes; returns when those that wait are written, unless the writer is stuck.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        self.changed.notify_all();
        let grace = std::time::Duration::from_secs(1);
        let _ = self.changed.wait_timeout_while(state, grace, |state| {
            state.writing || !state.waiting.is_empty()
        });
    }

    fn push(&self, bytes: &[u8]) {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| {
                state.waiting.len() >= MAX_WAITING && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        state.waiting.extend(bytes);
        self.changed.notify_all();
    }

    fn drain(&self, output: &mut dyn Write) {
        let mut open = true;
        while let Some(bytes) = self.next() {
            // The reader may go away; the guest goes on without it.
            open = open
                && output
                    .write_all(&bytes)
                    .and_then(|()| output.flush())
                    .is_ok();
            self.lock().writing = false;
            self.changed.notify_all();
        }
    }

    /// Waits for bytes; `None` when there will be no more.
    fn next(&self) -> Option<Vec<u8>> {
        let mut state = self
            .changed
            .wait_while(self.lock(), |state| {
                state.waiting.is_empty() && !state.closed
            })
            .unwrap_or_else(PoisonError::into_inner);
        if state.waiting.is_empty() {
            return None;
        }
        state.writing = true;
        Some(std::mem::take(&mut state.waiting).into())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change leaves the state whole, so a panic elsewhere spoils nothing.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Sender, channel};

    struct Forward(Sender<Vec<u8>>);

    impl Write for Forward {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_output_gets_every_byte_before_close_returns() {
        let (sender, receiver) = channel();
        let ending = EndingReporter::new().0;
        let mut log = ConsoleLog::new(Some(Box::new(Forward(sender))), ending).unwrap();
        for byte in 0..=255u8 {
            log.write_all(&[byte]).unwrap();
        }
        log.state().close();
        let bytes: Vec<u8> = receiver.try_iter().flatten().collect();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
    }

    #[test]
    fn the_first_panic_is_kept() {
        let mut log = ConsoleLog::new(None, EndingReporter::new().0).unwrap();
        log.write_all(b"[ 0.1] fine\r\n[ 0.2] Kernel panic - not syncing: one\r\n")
            .unwrap();
        log.write_all(b"Kernel panic - not syncing: two\r\n")
            .unwrap();
        assert_eq!(log.state().panic().as_deref(), Some("one"));
    }
}
