//! Files that an agent serves: one session, asked and answered in turn.
//!
//! The agent's guest has mounted what another guest wrote, so nothing that it says is believed: what it sends is bounded
//! here, too, and names are checked.

use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use files::{EntryKind, FileEntry, FilesError, MAX_ENTRIES, MAX_READ};
use nix::fcntl::OFlag;
use nix::unistd::pipe2;
use protocol::{
    Bytes, Exit, ExitStatus, FileFailure, FileKind, FileProblem, FileReply, FileRequest,
    FileStatus, FilesRequest, FrameError, FrameReader, FrameWriter, MAX_DATA,
};

use crate::session::{Session, SessionEnd, SessionError, Streams};

/// Why something cannot be done with the files that an agent serves.
#[derive(Debug)]
pub(super) enum RemoteError {
    /// The agent says so.
    Files(FilesError),
    /// The agent cannot be talked to.
    Agent(Box<dyn Error + Send + Sync>),
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
pub(super) struct Remote {
    session: Session,
    requests: FrameWriter<File>,
    replies: FrameReader<File>,
}

impl Remote {
    /// Asks an agent for the files beneath `directory`.
    pub(super) fn attach(stream: UnixStream, directory: &str) -> Result<Remote, RemoteError> {
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
    pub(super) fn finish(self) -> Result<(), RemoteError> {
        drop(self.requests);
        match self.session.end()? {
            SessionEnd::Exited(Exit {
                status: ExitStatus::Code(0),
                ..
            }) => Ok(()),
            end => Err(AgentError::Ended(end).into()),
        }
    }

    pub(super) fn read(&mut self, path: &Path) -> Result<Vec<u8>, RemoteError> {
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

    pub(super) fn write(&mut self, path: &Path, contents: &[u8]) -> Result<(), RemoteError> {
        self.ask("write", &FileRequest::Write(bytes(path)))?;
        for part in contents.chunks(MAX_DATA) {
            self.ask("write", &FileRequest::Data(part))?;
        }
        self.ask("write", &FileRequest::End)?;
        self.hear("write", path, nothing)
    }

    pub(super) fn list(&mut self, path: &Path) -> Result<Vec<FileEntry>, RemoteError> {
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
                entries.push(entry(check_name(&status)?, &status));
                Ok(())
            }
            _ => Err(AgentError::OutOfTurn.into()),
        })?;
        entries.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    pub(super) fn stat(&mut self, path: &Path) -> Result<FileEntry, RemoteError> {
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

    pub(super) fn mkdir(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("create", &FileRequest::MakeDirectory(bytes(path)), path)
    }

    pub(super) fn remove(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("remove", &FileRequest::Remove(bytes(path)), path)
    }

    pub(super) fn remove_file(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("remove", &FileRequest::RemoveFile(bytes(path)), path)
    }

    pub(super) fn remove_all(&mut self, path: &Path) -> Result<(), RemoteError> {
        self.act("remove", &FileRequest::RemoveAll(bytes(path)), path)
    }

    pub(super) fn copy(&mut self, from: &Path, to: &Path) -> Result<(), RemoteError> {
        self.act("copy", &FileRequest::Copy(bytes(from), bytes(to)), from)
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<(), RemoteError> {
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

fn bytes(path: &Path) -> Bytes {
    Bytes(path.as_os_str().as_bytes().to_vec())
}

/// The name of an entry of a directory, which callers will put into paths.
fn check_name(status: &FileStatus) -> Result<OsString, AgentError> {
    let bytes = &status.name.0;
    let name = OsString::from_vec(bytes.clone());
    let is_name = !matches!(&bytes[..], b"" | b"." | b"..") && !bytes.contains(&b'/');
    match is_name && !bytes.contains(&0) {
        true => Ok(name),
        false => Err(AgentError::BadName(name)),
    }
}

fn entry(name: OsString, status: &FileStatus) -> FileEntry {
    FileEntry {
        name,
        kind: match status.kind {
            FileKind::File => EntryKind::File,
            FileKind::Directory => EntryKind::Directory,
            FileKind::Symlink => EntryKind::Symlink,
            FileKind::Other => EntryKind::Other,
        },
        size: status.size,
        mode: status.mode & 0o7777,
        modified: time(status.modified_s, status.modified_ns),
    }
}

fn time(seconds: i64, nanoseconds: u32) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = match seconds {
        0.. => UNIX_EPOCH.checked_add(whole),
        _ => UNIX_EPOCH.checked_sub(whole),
    };
    let part = Duration::from_nanos(nanoseconds.into());
    time.and_then(|time| time.checked_add(part))
        .unwrap_or(UNIX_EPOCH)
}

/// The error that the agent found; about `path` if it does not name one.
fn files_error(action: &'static str, path: &Path, failure: FileFailure) -> FilesError {
    let path = match failure.path.0 {
        named if named.is_empty() => path.to_owned(),
        named => PathBuf::from(OsString::from_vec(named)),
    };
    match failure.problem {
        FileProblem::Errno(number) => FilesError::Io {
            action,
            path,
            source: io::Error::from_raw_os_error(number),
        },
        FileProblem::Escape => FilesError::PathEscape { path },
        FileProblem::NotFound => FilesError::NotFound { path },
        FileProblem::NotAnEntry => FilesError::NotAnEntry { path },
        FileProblem::NotRegular => FilesError::NotRegular { path },
        FileProblem::TooManyBytes(size) => FilesError::FileTooLarge { path, size },
        FileProblem::TooManyEntries(count) => FilesError::DirectoryTooLarge { path, count },
        FileProblem::IntoItself => FilesError::IntoItself { path },
        FileProblem::TooDeep(limit) => FilesError::TooDeep { path, limit },
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
