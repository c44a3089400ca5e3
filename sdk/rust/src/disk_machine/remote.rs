//! Files that an agent serves: one session, asked and answered in turn.
//!
//! The agent's guest has mounted what another guest wrote, so nothing that it says is believed: what it sends is bounded
//! here, too, and names are checked.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;

use files::{FileEntry, FilesError, MAX_ENTRIES, MAX_READ};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use protocol::{
    Bytes, Exit, ExitStatus, FileReply, FileRequest, FilesRequest, FrameError, FrameReader,
    FrameWriter, MAX_DATA,
};

use super::DiskMachineError;
use crate::file_replies::{bytes, check_name, entry, files_error};
use crate::session::{Session, SessionEnd, SessionError, Streams};

/// Why something cannot be done with the files that an agent serves.
#[derive(Debug)]
pub(crate) enum RemoteError {
    /// The agent says so.
    Files(FilesError),
    /// The agent cannot be talked to.
    Agent(Box<dyn Error + Send + Sync>),
    /// The machine did not end as it should.
    Machine(DiskMachineError),
}

/// What is wrong with the agent.
#[derive(Debug, thiserror::Error)]
enum AgentError {
    /// The session ended in the middle.
    #[error("The session with the agent ended: {0:?}")]
    Ended(SessionEnd),
    /// It answers what was not asked.
    #[error("The agent sent a reply out of turn")]
    OutOfTurn,
    /// It names a file as no file can be named.
    #[error("The agent named a file {0:?}")]
    BadName(OsString),
}

/// The files beneath a directory of a guest.
#[derive(Debug)]
pub(crate) struct Remote {
    session: Session,
    requests: FrameWriter<File>,
    replies: FrameReader<File>,
}

impl Remote {
    /// Asks an agent for the files beneath `directory`.
    pub(crate) fn attach(stream: UnixStream, directory: &str) -> Result<Remote, RemoteError> {
        let (input, requests) = pipe()?;
        let (replies, output) = pipe()?;
        let streams = Streams {
            input: Some(input),
            output,
            // How the session ends tells as much.
            error: OpenOptions::new().write(true).open("/dev/null")?,
        };
        let directory = Bytes(directory.as_bytes().to_vec());
        let session = Session::attach(stream, FilesRequest { directory }, streams)?;
        Ok(Remote {
            session,
            requests: FrameWriter::new(requests),
            replies: FrameReader::new(replies),
        })
    }

    /// Ends the session.
    pub(crate) fn finish(self) -> Result<(), RemoteError> {
        drop(self.requests);
        match self.session.end()? {
            SessionEnd::Exited(Exit {
                status: ExitStatus::Code(0),
                ..
            }) => Ok(()),
            end => Err(AgentError::Ended(end).into()),
        }
    }

    pub(crate) fn read(&mut self, path: &Path) -> Result<Vec<u8>, RemoteError> {
        let mut contents = Vec::new();
        self.ask("read", &FileRequest::Read(bytes(path)))?;
        self.hear("read", path, |reply| match reply {
            FileReply::Data(data) if contents.len() as u64 + data.len() as u64 > MAX_READ => {
                Err(RemoteError::Files(FilesError::FileTooLarge {
                    path: path.to_owned(),
                    size: contents.len() as u64 + data.len() as u64,
                }))
            }
            FileReply::Data(data) => {
                contents.extend_from_slice(data);
                Ok(())
            }
            _ => Err(AgentError::OutOfTurn.into()),
        })?;
        Ok(contents)
    }

    pub(crate) fn write(&mut self, path: &Path, contents: &[u8]) -> Result<(), RemoteError> {
        self.ask("write", &FileRequest::Write(bytes(path)))?;
        for part in contents.chunks(MAX_DATA) {
            self.ask("write", &FileRequest::Data(part))?;
        }
        self.ask("write", &FileRequest::End)?;
        self.hear("write", path, nothing)
    }

    pub(crate) fn list(&mut self, path: &Path) -> Result<Vec<FileEntry>, RemoteError> {
        let mut entries = Vec::new();
        self.ask("list", &FileRequest::List(bytes(path)))?;
        self.hear("list", path, |reply| match reply {
            FileReply::Entry(_) if entries.len() as u64 == MAX_ENTRIES => {
                Err(RemoteError::Files(FilesError::DirectoryTooLarge {
                    path: path.to_owned(),
                    count: MAX_ENTRIES + 1,
                }))
            }
            FileReply::Entry(status) => {
                let name = check_name(&status).map_err(AgentError::BadName)?;
                entries.push(entry(name, &status));
                Ok(())
            }
            _ => Err(AgentError::OutOfTurn.into()),
        })?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    pub(crate) fn stat(&mut self, path: &Path) -> Result<FileEntry, RemoteError> {
        let mut found = None;
        self.ask("examine", &FileRequest::Stat(bytes(path)))?;
        self.hear("examine", path, |reply| match reply {
            FileReply::Entry(status) => {
                let name = path.file_name().unwrap_or(OsStr::new("."));
                found = Some(entry(name.to_owned(), &status));
                Ok(())
            }
            _ => Err(AgentError::OutOfTurn.into()),
        })?;
        found.ok_or_else(|| AgentError::OutOfTurn.into())
    }

    pub(crate) fn mkdir(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("create", &FileRequest::MakeDirectory(bytes(path)), path)
    }

    pub(crate) fn remove(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("remove", &FileRequest::Remove(bytes(path)), path)
    }

    pub(crate) fn remove_file(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("remove", &FileRequest::RemoveFile(bytes(path)), path)
    }

    pub(crate) fn remove_all(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("remove", &FileRequest::RemoveAll(bytes(path)), path)
    }

    pub(crate) fn copy(&mut self, from: &Path, to: &Path) -> Result<(), RemoteError> {
        self.act("copy", &FileRequest::Copy(bytes(from), bytes(to)), from)
    }

    /// Hands the parts of the archive of a layer to `take`, see [`FileRequest::ReadLayer`]. When that fails, the session is
    /// of no further use.
    pub(crate) fn read_layer(
        &mut self,
        layer: &Path,
        below: &Path,
        mut take: impl FnMut(&[u8]) -> Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        self.ask("read", &FileRequest::ReadLayer(bytes(layer), bytes(below)))?;
        self.hear("read", layer, |reply| match reply {
            FileReply::Data(data) => take(data),
            _ => Err(AgentError::OutOfTurn.into()),
        })
    }

    pub(crate) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), RemoteError> {
        self.act("rename", &FileRequest::Rename(bytes(from), bytes(to)), from)
    }

    /// A request that is answered with its success only.
    fn act(
        &mut self,
        action: &'static str,
        request: &FileRequest,
        path: &Path,
    ) -> Result<(), RemoteError> {
        self.ask(action, request)?;
        self.hear(action, path, nothing)
    }

    fn ask(&mut self, action: &'static str, request: &FileRequest) -> Result<(), RemoteError> {
        match self.requests.write(request) {
            Ok(()) => Ok(()),
            // The session is over; what it said last is among the replies.
            Err(FrameError::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.hear(action, Path::new(""), nothing)?;
                Err(AgentError::OutOfTurn.into())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the replies to one request: gives those before the last to `take`.
    fn hear(
        &mut self,
        action: &'static str,
        path: &Path,
        mut take: impl FnMut(FileReply) -> Result<(), RemoteError>,
    ) -> Result<(), RemoteError> {
        loop {
            match self.replies.read()? {
                Some(FileReply::Done) => return Ok(()),
                Some(FileReply::Failed(failure)) => {
                    return Err(RemoteError::Files(files_error(action, path, failure)));
                }
                Some(reply) => take(reply)?,
                None => return Err(AgentError::Ended(self.session.wait()?).into()),
            }
        }
    }
}

fn nothing(_: FileReply) -> Result<(), RemoteError> {
    Err(AgentError::OutOfTurn.into())
}

fn pipe() -> io::Result<(File, File)> {
    let (reader, writer) = pipe2(OFlag::O_CLOEXEC)?;
    Ok((File::from(reader), File::from(writer)))
}

impl From<DiskMachineError> for RemoteError {
    fn from(error: DiskMachineError) -> RemoteError {
        RemoteError::Machine(error)
    }
}

impl From<SessionError> for RemoteError {
    fn from(error: SessionError) -> RemoteError {
        RemoteError::Agent(error.into())
    }
}

impl From<FrameError> for RemoteError {
    fn from(error: FrameError) -> RemoteError {
        RemoteError::Agent(error.into())
    }
}

impl From<AgentError> for RemoteError {
    fn from(error: AgentError) -> RemoteError {
        RemoteError::Agent(error.into())
    }
}

impl From<io::Error> for RemoteError {
    fn from(error: io::Error) -> RemoteError {
        RemoteError::Agent(error.into())
    }
}
