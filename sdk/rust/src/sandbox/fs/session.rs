//! One session that serves files: requests in its standard input, replies in its standard output.
//!
//! Each call has one of its own, so that calls do not wait for each other, one that is given up leaves nothing behind, and a
//! sandbox that nobody uses has none.

use std::path::{Path, PathBuf};

use bytes::{Buf, Bytes};
use protocol::{Failure, FileReply, FileRequest, FilesRequest, FrameDecoder, HostMessage};

use super::error::{in_guest, odd};
use crate::error::MicrosandboxError;
use crate::file_replies::files_error;
use crate::sandbox::exec::channel::{Channel, ChannelError, Event};
use crate::sandbox::exec::connection::encoded;
use crate::sandbox::exec::{ask_agent, lost, refused};
use crate::sandbox::machine::Machine;

/// Files of a guest, as one call reaches them.
#[derive(Debug)]
pub(super) struct FileSession {
    channel: Channel,
    machine: Machine,
    decoder: FrameDecoder,
    /// Output that does not fit into the decoder yet.
    output: Bytes,
    /// What the call is about, for errors.
    action: &'static str,
    path: PathBuf,
}

impl FileSession {
    /// Begins a session to do something with `path`, which is one of [`request_path`].
    pub(super) async fn open(
        machine: &Machine,
        action: &'static str,
        path: &Path,
    ) -> Result<FileSession, MicrosandboxError> {
        let stream = machine.connect_agent().await?;
        let directory = protocol::Bytes(b"/".to_vec());
        let channel = ask_agent(stream, &HostMessage::Files(FilesRequest { directory })).await?;
        Ok(FileSession {
            channel,
            machine: machine.clone(),
            decoder: FrameDecoder::new(),
            output: Bytes::new(),
            action,
            path: path.to_owned(),
        })
    }

    /// Sends a request, as far as the agent takes it.
    ///
    /// # Errors
    /// When it does not fit into a frame.
    pub(super) async fn ask(&mut self, request: &FileRequest<'_>) -> Result<(), MicrosandboxError> {
        let frame = encoded(request)
            .map_err(|_| odd(&self.path, "The path is too long to be asked for"))?;
        self.send(&frame).await
    }

    /// Sends frames of requests. If the agent takes no more, the next reply says why.
    pub(super) async fn send(&mut self, mut frames: &[u8]) -> Result<(), MicrosandboxError> {
        while !frames.is_empty() {
            let sent = self.channel.sender().send_input(frames).await;
            match sent.map_err(|error| lost(error.into()))? {
                0 => return Ok(()),
                count => frames = frames.get(count..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    /// Waits until the session is begun, so that whatever comes from then on is about the request.
    ///
    /// # Errors
    /// When it cannot be begun.
    pub(super) async fn begun(&mut self) -> Result<(), MicrosandboxError> {
        match self.next_event().await? {
            Some(Event::Started(_)) => Ok(()),
            Some(Event::Failed(failure)) => Err(self.refused(failure)),
            _ => Err(out_of_turn()),
        }
    }

    async fn next_event(&mut self) -> Result<Option<Event>, MicrosandboxError> {
        match self.channel.next().await {
            Ok(event) => Ok(event),
            Err(error) => Err(self.machine.session_error(error).await),
        }
    }

    fn refused(&self, failure: Failure) -> MicrosandboxError {
        refused(self.machine.name().as_str(), failure)
    }

    /// Whether the agent has said something, so that the next reply takes no waiting.
    pub(super) fn has_news(&self) -> bool {
        self.channel.has_event()
    }

    /// Waits for the next reply; `None` when the request is carried out.
    ///
    /// # Errors
    /// When it could not be carried out, or the session ends.
    pub(super) async fn reply(&mut self) -> Result<Option<FileReply<'_>>, MicrosandboxError> {
        while !self
            .decoder
            .has_frame()
            .map_err(|error| lost(error.into()))?
        {
            if self.output.is_empty() {
                self.output = self.next_output().await?;
            }
            let mut output = &self.output[..];
            let read = self.decoder.read_from(&mut output);
            let count = read.map_err(|error| lost(ChannelError::Frame(error.into())))?;
            self.output.advance(count);
        }
        let reply = self.decoder.next_frame();
        match reply.map_err(|error| lost(error.into()))? {
            Some(FileReply::Done) => Ok(None),
            Some(FileReply::Failed(failure)) => {
                Err(in_guest(files_error(self.action, &self.path, failure)))
            }
            Some(reply) => Ok(Some(reply)),
            None => Err(lost(ChannelError::Unexpected)),
        }
    }

    /// Waits until a request is carried out that is answered by its success only.
    ///
    /// # Errors
    /// As [`reply`](Self::reply).
    pub(super) async fn done(&mut self) -> Result<(), MicrosandboxError> {
        match self.reply().await? {
            None => Ok(()),
            Some(_) => Err(out_of_turn()),
        }
    }

    async fn next_output(&mut self) -> Result<Bytes, MicrosandboxError> {
        loop {
            match self.next_event().await? {
                Some(Event::Stdout(data)) if !data.is_empty() => return Ok(data),
                Some(Event::Started(_) | Event::Stdout(_) | Event::Stderr(_)) => {}
                Some(Event::Failed(failure)) => return Err(self.refused(failure)),
                Some(Event::Exited(_)) | None => return Err(lost(ChannelError::Disconnected)),
            }
        }
    }
}

/// A reply that was not asked for.
pub(super) fn out_of_turn() -> MicrosandboxError {
    lost(ChannelError::Unexpected)
}

/// A path of the guest as requests have it: from `/` on.
pub(super) fn request_path(path: &Path) -> PathBuf {
    path.strip_prefix("/").unwrap_or(path).to_owned()
}
