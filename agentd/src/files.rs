//! Serving the files beneath a directory: what the process of a session does instead of executing a program.
//!
//! It blocks, and holds one frame of either direction and one part of a file in memory.

use std::error::Error;
use std::ffi::OsStr;
use std::fmt::{self, Display, Formatter};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use files::{EntryKind, FileEntry, Files, FilesError, MAX_READ};
use protocol::{
    Bytes, FileFailure, FileKind, FileProblem, FileReply, FileRequest, FileStatus, FrameError,
    FrameReader, FrameWriter, MAX_DATA,
};

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
            FileRequest::Write(path) => self.write(to_path(&path)),
            FileRequest::List(path) => self.list(to_path(&path)),
            FileRequest::Stat(path) => self.stat(to_path(&path)),
            FileRequest::MakeDirectory(path) => done(self.files.mkdir(to_path(&path))),
            FileRequest::Remove(path) => done(self.files.remove(to_path(&path))),
            FileRequest::RemoveFile(path) => done(self.files.remove_file(to_path(&path))),
            FileRequest::RemoveAll(path) => done(self.files.remove_all(to_path(&path))),
            FileRequest::Copy(from, to) => done(self.files.copy(to_path(&from), to_path(&to))),
            FileRequest::Rename(from, to) => done(self.files.rename(to_path(&from), to_path(&to))),
            FileRequest::Data(_) | FileRequest::End => {
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
        let mut file = self.files.open_file(path)?;
        let mut part = vec![0; MAX_DATA];
        let mut total: u64 = 0;
        loop {
            let count = match file.read(&mut part) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(io_failed("read", path, error).into()),
            };
            total = total.saturating_add(u64::try_from(count).unwrap_or(u64::MAX));
            if total > MAX_READ {
                // It grows meanwhile.
                let path = path.to_owned();
                return Err(FilesError::FileTooLarge { path, size: total }.into());
            }
            let data = part.get(..count).unwrap_or_default();
            self.writer.write(&FileReply::Data(data))?;
        }
    }

    fn write(&mut self, path: &Path) -> Result<(), Trouble> {
        let mut file = self.files.create(path);
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

fn to_bytes(path: PathBuf) -> Bytes {
    Bytes(path.into_os_string().into_vec())
}

fn io_failed(action: &'static str, path: &Path, source: io::Error) -> FilesError {
    FilesError::Io {
        action,
        path: path.to_owned(),
        source,
    }
}

fn status(entry: FileEntry) -> FileStatus {
    let (modified_s, modified_ns) = timestamp(entry.modified);
    FileStatus {
        name: Bytes(entry.name.into_vec()),
        kind: match entry.kind {
            EntryKind::File => FileKind::File,
            EntryKind::Directory => FileKind::Directory,
            EntryKind::Symlink => FileKind::Symlink,
            EntryKind::Other => FileKind::Other,
        },
        size: entry.size,
        mode: entry.mode,
        modified_s,
        modified_ns,
    }
}

/// Seconds since 1970, rounded down, and the nanoseconds to be added.
fn timestamp(time: SystemTime) -> (i64, u32) {
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => (seconds(after.as_secs()), after.subsec_nanos()),
        Err(error) => {
            let before = error.duration();
            let whole = seconds(before.as_secs()).saturating_neg();
            match before.subsec_nanos() {
                0 => (whole, 0),
                part => (
                    whole.saturating_sub(1),
                    1_000_000_000_u32.saturating_sub(part),
                ),
            }
        }
    }
}

fn failure(error: FilesError) -> FileFailure {
    let (path, problem) = match error {
        FilesError::PathEscape { path } => (path, FileProblem::Escape),
        FilesError::NotFound { path } => (path, FileProblem::NotFound),
        FilesError::NotAnEntry { path } => (path, FileProblem::NotAnEntry),
        FilesError::NotRegular { path } => (path, FileProblem::NotRegular),
        FilesError::FileTooLarge { path, size } => (path, FileProblem::TooManyBytes(size)),
        FilesError::DirectoryTooLarge { path, count } => (path, FileProblem::TooManyEntries(count)),
        FilesError::IntoItself { path } => (path, FileProblem::IntoItself),
        FilesError::TooDeep { path, limit } => (path, FileProblem::TooDeep(limit)),
        FilesError::Io { path, source, .. } => {
            // Without a number it is a zero byte in a path.
            let number = source.raw_os_error().unwrap_or(libc::EINVAL);
            (path, FileProblem::Errno(number))
        }
    };
    FileFailure {
        path: to_bytes(path),
        problem,
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
