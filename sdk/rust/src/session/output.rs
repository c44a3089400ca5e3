//! The thread that reads from a session's connection.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, OnceLock};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{FrameDecoder, FrameError, FrameReader, GuestMessage};

use super::{Remote, SessionEnd, SessionError};
use crate::launch::Moment;

/// What the output thread works with.
pub(super) struct Output {
    /// The connection.
    pub(super) stream: UnixStream,
    /// What has been read from it already, if the greetings are exchanged.
    pub(super) greeted: Option<FrameDecoder>,
    /// Standard output.
    pub(super) output: File,
    /// Standard error.
    pub(super) error: File,
    /// Where credit goes.
    pub(super) remote: Arc<Remote>,
    /// When the first output came.
    pub(super) first: Arc<OnceLock<Moment>>,
}

impl Output {
    /// Runs until the session is over.
    pub(super) fn run(mut self) -> Result<SessionEnd, SessionError> {
        let end = self.read_all();
        self.remote.finish();
        end
    }

    fn read_all(&mut self) -> Result<SessionEnd, SessionError> {
        let mut reader = match self.greeted.take() {
            Some(decoder) => FrameReader::resume(&self.stream, decoder),
            None => {
                let mut reader = FrameReader::new(&self.stream);
                match read(&mut reader)? {
                    Some(GuestMessage::Hello(hello)) => hello.check()?,
                    Some(GuestMessage::Failed(failure)) => return Ok(SessionEnd::Refused(failure)),
                    Some(other) => return Err(unexpected(&other)),
                    None => return Ok(SessionEnd::Disconnected),
                }
                reader
            }
        };
        loop {
            let Some(message) = read(&mut reader)? else {
                return Ok(SessionEnd::Disconnected);
            };
            let written = match message {
                GuestMessage::Stdout(data) => self.write(&self.output, data),
                GuestMessage::Stderr(data) => self.write(&self.error, data),
                GuestMessage::StdinCredit(bytes) => {
                    self.remote.add_credit(bytes);
                    Ok(())
                }
                GuestMessage::StdinClosed => {
                    self.remote.close_input();
                    Ok(())
                }
                GuestMessage::Started(_) => Ok(()),
                GuestMessage::Exited(exit) => return Ok(SessionEnd::Exited(exit)),
                GuestMessage::Failed(failure) => return Ok(SessionEnd::Refused(failure)),
                other => return Err(unexpected(&other)),
            };
            match written {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Ok(SessionEnd::OutputClosed);
                }
                Err(error) => return Err(SessionError::Output(error)),
            }
        }
    }

    fn write(&self, file: &File, data: &[u8]) -> io::Result<()> {
        self.first.get_or_init(Moment::now);
        write_all(file, data)
    }
}

/// The next message; `None` when the guest is gone, in whatever way.
fn read<'a>(
    reader: &'a mut FrameReader<&UnixStream>,
) -> Result<Option<GuestMessage<'a>>, FrameError> {
    match reader.read() {
        Err(FrameError::Truncated) => Ok(None),
        Err(FrameError::Io(error)) if error.kind() == ErrorKind::ConnectionReset => Ok(None),
        result => result,
    }
}

/// As `Write::write_all`, also for descriptors that somebody else has made non-blocking: the flag
/// belongs to the terminal or pipe, which other programs share.
fn write_all(mut file: &File, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        match file.write(data) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => data = data.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                let mut descriptors = [PollFd::new(file.as_fd(), PollFlags::POLLOUT)];
                // An interruption or an error shows in the next write.
                let _ = poll(&mut descriptors, PollTimeout::NONE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn unexpected(message: &GuestMessage<'_>) -> SessionError {
    let message = match message {
        GuestMessage::Hello(_) => "a second greeting",
        GuestMessage::Ready(_) => "Ready",
        GuestMessage::Goodbye => "Goodbye",
        GuestMessage::Started(_) => "Started",
        GuestMessage::Stdout(_) | GuestMessage::Stderr(_) => "output",
        GuestMessage::StdinCredit(_) | GuestMessage::StdinClosed => "flow control",
        GuestMessage::Exited(_) => "Exited",
        GuestMessage::Failed(_) => "Failed",
        GuestMessage::Stopping => "Stopping",
        GuestMessage::Drained => "Drained",
        GuestMessage::Measured(_) => "Measured",
    };
    SessionError::Unexpected { message }
}
