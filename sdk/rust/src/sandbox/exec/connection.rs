//! Frames over a connection, asynchronously.

use std::io::{self, ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use nix::sys::socket::{Shutdown, shutdown};
use protocol::{FrameDecoder, FrameError};
use serde::{Deserialize, Serialize};
use tokio::net::UnixStream;

/// A connection that carries frames.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Connection {
        Connection::with(stream, FrameDecoder::new())
    }

    /// One of which `decoder` has read already.
    pub(crate) fn with(stream: UnixStream, decoder: FrameDecoder) -> Connection {
        let stream = Arc::new(stream);
        Connection {
            writer: Writer(Arc::clone(&stream)),
            reader: Reader { stream, decoder },
        }
    }

    /// Sends frames that [`encoded`] made.
    ///
    /// # Errors
    /// As write(2).
    pub(crate) async fn send(&self, frames: &[u8]) -> io::Result<()> {
        self.writer.send(frames).await
    }

    /// What ends it.
    pub(super) fn hang_up(&self) -> HangUp {
        HangUp(Arc::clone(&self.reader.stream))
    }
}

/// Ends a connection when it is dropped, at once and on both sides: whoever else has the socket open for a while, as a
/// child does between fork(2) and execve(2), does not keep it from ending.
#[derive(Debug)]
pub(super) struct HangUp(Arc<UnixStream>);

impl Drop for HangUp {
    fn drop(&mut self) {
        // Fails when the other side is gone already.
        let _ = shutdown(self.0.as_raw_fd(), Shutdown::Both);
    }
}

/// The writing side.
#[derive(Debug)]
pub(super) struct Writer(Arc<UnixStream>);

impl Writer {
    /// Sends frames that [`encoded`] made.
    ///
    /// # Errors
    /// As write(2).
    pub(super) async fn send(&self, mut frames: &[u8]) -> io::Result<()> {
        while !frames.is_empty() {
            self.0.writable().await?;
            match self.0.try_write(frames) {
                Ok(count) => frames = frames.get(count..).unwrap_or_default(),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// A message as a frame.
///
/// # Errors
/// [`FrameError::TooLong`].
pub(crate) fn encoded<M: Serialize>(message: &M) -> Result<Vec<u8>, FrameError> {
    let mut frame = Vec::new();
    protocol::encode(message, &mut frame)?;
    Ok(frame)
}

/// The reading side.
#[derive(Debug)]
pub(crate) struct Reader {
    stream: Arc<UnixStream>,
    decoder: FrameDecoder,
}

impl Reader {
    /// Waits for the next message; `None` at the end of the stream, in whatever way it ended. What is given up while it
    /// waits is not lost.
    ///
    /// # Errors
    /// When something came that cannot be understood.
    pub(crate) async fn next<'a, M: Deserialize<'a>>(
        &'a mut self,
    ) -> Result<Option<M>, FrameError> {
        while !self.decoder.has_frame()? {
            self.stream.readable().await?;
            match self.decoder.read_from(&mut Now(&self.stream)) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error.into()),
            }
        }
        self.decoder.next_frame()
    }
}

/// Reads what has arrived, and does not wait.
struct Now<'s>(&'s UnixStream);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}
