//! Contents of files of any size, a part at a time.

use bytes::Bytes;
use protocol::{FileReply, FileRequest};

use super::session::{FileSession, out_of_turn};
use crate::error::MicrosandboxError;

/// Bytes of contents in one request: with what is around them, they fit into one message.
pub(super) const PART: usize = 60 << 10;

/// The contents of a file, as they come. Who takes nothing stops nothing but this stream; dropping it ends it.
#[derive(Debug)]
pub struct FsReadStream {
    session: FileSession,
    /// Bytes that may still come: no more than were asked for, whatever the guest sends.
    left: u64,
    is_over: bool,
}

impl FsReadStream {
    pub(super) fn new(session: FileSession, length: u64) -> FsReadStream {
        FsReadStream {
            session,
            left: length,
            is_over: false,
        }
    }

    /// Waits for the next part, at most 64 KiB; `None` at the end of the file.
    ///
    /// # Errors
    /// [`MicrosandboxError::Fs`] when it cannot be read.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, MicrosandboxError> {
        if self.is_over {
            return Ok(None);
        }
        match self.session.reply().await? {
            Some(FileReply::Data(data)) => {
                let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
                self.left = self.left.checked_sub(length).ok_or_else(out_of_turn)?;
                Ok(Some(Bytes::copy_from_slice(data)))
            }
            Some(_) => Err(out_of_turn()),
            None => {
                self.is_over = true;
                Ok(None)
            }
        }
    }
}

/// A file that is written. What was written stays, also without [`finish`](Self::finish), which says whether all was.
#[derive(Debug)]
pub struct FsWriteStream {
    session: FileSession,
}

impl FsWriteStream {
    pub(super) fn new(session: FileSession) -> FsWriteStream {
        FsWriteStream { session }
    }

    /// Writes `data` behind what was written before. A future that is given up leaves the stream unusable.
    ///
    /// # Errors
    /// When the session ends. That the file cannot be written turns out with [`finish`](Self::finish).
    pub async fn write_all(&mut self, data: &[u8]) -> Result<(), MicrosandboxError> {
        for part in data.chunks(PART) {
            self.session.ask(&FileRequest::Data(part)).await?;
        }
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// [`MicrosandboxError::PathNotFound`] when its directory does not exist, [`MicrosandboxError::Fs`].
    pub async fn finish(mut self) -> Result<(), MicrosandboxError> {
        self.session.ask(&FileRequest::End).await?;
        self.session.done().await
    }
}
