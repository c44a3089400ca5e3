//! Serving the files beneath a directory: what the process of a session does instead of executing a program.
//!
//! It blocks, and holds one frame of either direction and one part of a file in memory.

mod answers;
mod layers;
mod trees;

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use files::{Files, FilesError, MAX_READ};
use protocol::{Bytes, FileReply, FileRequest, FrameError, FrameReader, FrameWriter, MAX_DATA};

use answers::{failure, status};

/// Serves standard input and output until the client has nothing more to ask.
///
/// # Errors
/// When a frame cannot be understood or is out of order, or nobody takes the replies.
pub(crate) fn serve(files: &Files) -> Result<(), Box<dyn Error>> {
    let input = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let output = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let mut service = Service {
        files,
        reader: FrameReader::new(input),
        writer: FrameWriter::new(output),
    };
    while service.serve_one()? {}
    Ok(())
}

struct Service<'f> {
    files: &'f Files,
    reader: FrameReader<File>,
    writer: FrameWriter<File>,
}

/// Why a request is not carried out.
#[derive(Debug)]
enum Trouble {
    /// The client hears of it.
    Files(FilesError),
    /// The client cannot be talked to any more.
    Frame(FrameError),
    /// The client broke a rule.
    Rule(&'static str),
}

impl Service<'_> {
    /// Carries out one request. Returns false if there is none.
    fn serve_one(&mut self) -> Result<bool, Trouble> {
        let Some(request) = self.reader.read::<FileRequest>()? else {
            return Ok(false);
        };
        let outcome = match request {
            FileRequest::Read(path) => self.read(to_path(&path)),
            FileRequest::Write(path) => {
                let file = self.files.create(to_path(&path));
                self.write(to_path(&path), file)
            }
            FileRequest::List(path) => self.list(to_path(&path)),
            FileRequest::Stat(path) => self.stat(to_path(&path)),
            FileRequest::MakeDirectory(path) => done(self.files.mkdir(to_path(&path))),
            FileRequest::Remove(path) => done(self.files.remove(to_path(&path))),
            FileRequest::RemoveFile(path) => done(self.files.remove_file(to_path(&path))),
            FileRequest::RemoveAll(path) => done(self.files.remove_all(to_path(&path))),
            FileRequest::Copy(from, to) => done(self.files.copy(to_path(&from), to_path(&to))),
            FileRequest::Rename(from, to) => done(self.files.rename(to_path(&from), to_path(&to))),
            FileRequest::Examine(path, follow) => self.examine(to_path(&path), follow),
            FileRequest::ReadLink(path) => self.read_link(to_path(&path)),
            FileRequest::MakeSymlink(target, path) => {
                done(self.files.symlink(to_path(&target), to_path(&path)))
            }
            FileRequest::SetMode(path, mode) => done(self.files.set_mode(to_path(&path), mode)),
            FileRequest::SetOwner(path, user, group) => {
                done(self.files.set_owner(to_path(&path), user, group))
            }
            FileRequest::SetTimes(path, accessed, modified) => {
                done(self.files.set_times(to_path(&path), accessed, modified))
            }
            FileRequest::ReadFrom(path, offset, length) => {
                self.read_from(to_path(&path), offset, length)
            }
            FileRequest::WriteWithMode(path, mode) => {
                let file = self.files.create_with_mode(to_path(&path), mode);
                self.write(to_path(&path), file)
            }
            FileRequest::ReadTree(path) => self.read_tree(to_path(&path)),
            FileRequest::ReadLayer(layer, below) => {
                self.read_layer(to_path(&layer), to_path(&below))
            }
            FileRequest::WriteTree(path) => {
                self.write_tree(to_path(&path))?;
                return Ok(true);
            }
            FileRequest::Data(_)
            | FileRequest::End
            | FileRequest::Node(_)
            | FileRequest::Hole(_) => {
                return Err(Trouble::Rule("contents belong to no file"));
            }
        };
        let reply = match outcome {
            Ok(()) => FileReply::Done,
            Err(Trouble::Files(error)) => FileReply::Failed(failure(error)),
            Err(trouble) => return Err(trouble),
        };
        self.writer.write(&reply)?;
        Ok(true)
    }

    fn read(&mut self, path: &Path) -> Result<(), Trouble> {
        let file = self.files.open_file(path)?;
        match self.send(path, file.take(MAX_READ.saturating_add(1)))? {
            // It grows meanwhile.
            size if size > MAX_READ => {
                let path = path.to_owned();
                Err(FilesError::FileTooLarge { path, size }.into())
            }
            _ => Ok(()),
        }
    }

    fn read_from(&mut self, path: &Path, offset: u64, length: u64) -> Result<(), Trouble> {
        let mut file = self.files.open_file_of_any_size(path)?;
        if offset > 0 {
            file.seek(SeekFrom::Start(offset))
                .map_err(|error| io_failed("read", path, error))?;
        }
        self.send(path, file.take(length)).map(drop)
    }

    /// Sends contents up to their end; returns how many bytes these are.
    fn send(&mut self, path: &Path, mut contents: impl Read) -> Result<u64, Trouble> {
        let mut part = vec![0; MAX_DATA];
        let mut total: u64 = 0;
        loop {
            let count = match contents.read(&mut part) {
                Ok(0) => return Ok(total),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_failed("read", path, error).into()),
            };
            total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            let data = part.get(..count).unwrap_or_default();
            self.writer.write(&FileReply::Data(data))?;
        }
    }

    fn write(&mut self, path: &Path, mut file: Result<File, FilesError>) -> Result<(), Trouble> {
        loop {
            match self.reader.read()? {
                Some(FileRequest::Data(data)) if data.len() <= MAX_DATA => {
                    // After an error, what the client has still under way is dropped.
                    if let Ok(open) = &mut file
                        && let Err(error) = open.write_all(data)
                    {
                        file = Err(io_failed("write", path, error));
                    }
                }
                Some(FileRequest::End) => return done(file.map(drop)),
                Some(_) => return Err(Trouble::Rule("a file's contents are Data and End")),
                None => return Err(FrameError::Truncated.into()),
            }
        }
    }

    fn list(&mut self, path: &Path) -> Result<(), Trouble> {
        let writer = &mut self.writer;
        self.files.visit(path, |entry| {
            Ok(writer.write(&FileReply::Entry(status(entry)))?)
        })
    }

    fn examine(&mut self, path: &Path, follow: bool) -> Result<(), Trouble> {
        let attributes = self.files.attributes(path, follow)?;
        Ok(self.writer.write(&FileReply::Attributes(attributes))?)
    }

    fn read_link(&mut self, path: &Path) -> Result<(), Trouble> {
        let target = self.files.read_link(path)?.into_vec();
        Ok(self.writer.write(&FileReply::Data(&target))?)
    }

    fn stat(&mut self, path: &Path) -> Result<(), Trouble> {
        let entry = self.files.stat(path)?;
        Ok(self.writer.write(&FileReply::Entry(status(entry)))?)
    }
}

fn done(result: Result<(), FilesError>) -> Result<(), Trouble> {
    result.map_err(Trouble::Files)
}

fn to_path(bytes: &Bytes) -> &Path {
    Path::new(OsStr::from_bytes(&bytes.0))
}

fn io_failed(action: &'static str, path: &Path, source: io::Error) -> FilesError {
    FilesError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

impl From<FilesError> for Trouble {
    fn from(error: FilesError) -> Trouble {
        Trouble::Files(error)
    }
}

impl From<FrameError> for Trouble {
    fn from(error: FrameError) -> Trouble {
        Trouble::Frame(error)
    }
}

impl Display for Trouble {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Files(error) => error.fmt(f),
            Trouble::Frame(error) => error.fmt(f),
            Trouble::Rule(rule) => f.write_str(rule),
        }
    }
}

impl Error for Trouble {}
