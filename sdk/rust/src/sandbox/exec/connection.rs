//! Frames over a connection, asynchronously.

use std::io::{self, ErrorKind, Read};

use protocol::{FrameDecoder, FrameError};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// A connection that carries frames.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(super) reader: Reader,
    pub(super) writer: OwnedWriteHalf,
}

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Connection {
        Connection::with(stream, FrameDecoder::new())
    }

    /// One of which `decoder` has read already.
    pub(crate) fn with(stream: UnixStream, decoder: FrameDecoder) -> Connection {
        let (stream, writer) = stream.into_split();
        Connection {
            reader: Reader { stream, decoder },
            writer,
        }
    }

    /// Sends frames that [`encoded`] made.
    ///
    /// # Errors
    /// As write(2).
    pub(crate) async fn send(&mut self, frames: &[u8]) -> io::Result<()> {
        self.writer.write_all(frames).await
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
    stream: OwnedReadHalf,
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
struct Now<'s>(&'s OwnedReadHalf);

impl Read for Now<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}
