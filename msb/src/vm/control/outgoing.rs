//! Bytes on their way into a socket that may not take them at once.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;

use microsandbox::protocol::{FrameError, encode};
use serde::Serialize;

/// Size above which an empty buffer is given back.
const LARGE_BUFFER: usize = 256 * 1024;

/// Frames that wait for a socket. Whoever adds to it bounds it, by [`len`](Self::len).
#[derive(Debug, Default)]
pub(in crate::vm) struct Outgoing {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that are gone.
    sent: usize,
}

impl Outgoing {
    /// Adds a frame.
    ///
    /// # Errors
    /// When the message is too long for one.
    pub(in crate::vm) fn push<M: Serialize>(&mut self, message: &M) -> Result<(), FrameError> {
        encode(message, &mut self.buffer)
    }

    /// Bytes that wait.
    pub(in crate::vm) fn len(&self) -> usize {
        self.buffer.len().saturating_sub(self.sent)
    }

    /// Whether nothing waits.
    pub(in crate::vm) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes as much as `stream`, which does not wait, takes.
    ///
    /// # Errors
    /// As write(2); that it takes nothing now is none.
    pub(in crate::vm) fn flush(&mut self, mut stream: &UnixStream) -> io::Result<()> {
        while !self.is_empty() {
            match stream.write(self.buffer.get(self.sent..).unwrap_or_default()) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(count) => self.sent = self.sent.saturating_add(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.sent = 0;
        self.buffer.clear();
        if self.buffer.capacity() > LARGE_BUFFER {
            self.buffer = Vec::new();
        }
        Ok(())
    }
}
