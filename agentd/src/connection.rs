//! Frames over a stream socket.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{Shutdown, shutdown};
use protocol::{FrameDecoder, FrameError, GuestMessage, HostMessage, encode};

/// A connection to the host or to a client. It works the same way on blocking and non-blocking
/// sockets; on the latter what cannot be sent yet waits here.
#[derive(Debug)]
pub(crate) struct Connection {
    /// A socket; as a file because agentd only reads and writes it.
    stream: File,
    decoder: FrameDecoder,
    /// Frames that are not sent yet, from `sent` on. Whoever produces them in quantity waits
    /// until [`is_flushed`](Self::is_flushed), so there is at most one data frame here.
    outgoing: Vec<u8>,
    sent: usize,
}

impl Connection {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self {
            stream: File::from(socket),
            decoder: FrameDecoder::new(),
            outgoing: Vec::new(),
            sent: 0,
        }
    }

    /// Reads once. Returns the number of bytes; 0 is the end of the stream.
    pub(crate) fn receive(&mut self) -> io::Result<usize> {
        self.decoder.read_from(&mut self.stream)
    }

    /// Reads once and throws away what came. Returns the number of bytes; 0 is the end.
    pub(crate) fn discard(&mut self, scratch: &mut [u8]) -> io::Result<usize> {
        self.stream.read(scratch)
    }

    /// The next message that has arrived completely.
    pub(crate) fn next_message(&mut self) -> Result<Option<HostMessage<'_>>, FrameError> {
        self.decoder.next_frame()
    }

    /// On a blocking socket: waits for the next message; `None` at the end of the stream.
    pub(crate) fn wait_for_message(&mut self) -> Result<Option<HostMessage<'_>>, FrameError> {
        while !self.decoder.has_frame()? {
            if self.receive()? == 0 {
                self.decoder.finish()?;
                return Ok(None);
            }
        }
        self.next_message()
    }

    /// Puts `message` behind what waits already and sends as much as the socket takes.
    pub(crate) fn send(&mut self, message: &GuestMessage) -> Result<(), FrameError> {
        encode(message, &mut self.outgoing)?;
        Ok(self.flush()?)
    }

    /// Sends as much as the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(rest) = self
            .outgoing
            .get(self.sent..)
            .filter(|rest| !rest.is_empty())
        {
            match self.stream.write(rest) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.outgoing.clear();
        self.sent = 0;
        Ok(())
    }

    /// Whether everything has been handed to the socket.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outgoing.is_empty()
    }

    /// Tells the peer that nothing more will come.
    pub(crate) fn end_sending(&self) {
        let _ = shutdown(self.stream.as_raw_fd(), Shutdown::Write);
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}
