//! Files in a running sandbox.

mod archive;
mod copying;
mod error;
mod metadata;
mod nesting;
mod session;
mod streams;
#[cfg(test)]
mod tests;

pub use copying::CopyOptions;
pub use files::{
    EntryKind as FsEntryKind, FileEntry as FsEntry, Skipped, TreeReport as CopyReport,
};
pub use metadata::FsMetadata;
pub use streams::{FsReadStream, FsWriteStream};

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use files::MAX_ENTRIES;
use protocol::{ClockTime, FileReply, FileRequest};

pub(super) use self::error::in_guest;
use self::error::odd;
use self::session::{FileSession, out_of_turn, request_path};
use super::Sandbox;
use super::machine::Machine;
use crate::error::MicrosandboxError;
use crate::file_replies::{bytes, check_name, entry};

/// The files of a running sandbox, as its root sees them. Paths begin at `/`; links are followed as in the guest.
///
/// Calls do not wait for each other. Each fails with [`MicrosandboxError::SandboxNotRunning`] and
/// [`MicrosandboxError::SandboxDraining`] in such sandboxes, with [`MicrosandboxError::PathNotFound`] where nothing is, and
/// with [`MicrosandboxError::Fs`] and the guest's error number otherwise.
///
/// ```no_run
/// # async fn example(sandbox: microsandbox::Sandbox) -> Result<(), microsandbox::MicrosandboxError> {
/// let fs = sandbox.fs();
/// fs.write("/srv/job.json", r#"{"n": 1}"#).await?;
/// sandbox.exec("/srv/work", ["/srv/job.json"]).await?;
/// let answer = fs.read_to_string("/srv/answer").await?;
/// fs.copy_to_host("/srv/artifacts", "artifacts").await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct SandboxFs {
    machine: Machine,
}

impl Sandbox {
    /// Its files.
    pub fn fs(&self) -> SandboxFs {
        SandboxFs {
            machine: self.machine().clone(),
        }
    }
}

impl SandboxFs {
    /// Reads a file. All of it is kept in memory, so for large ones there is [`read_stream`](Self::read_stream).
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, MicrosandboxError> {
        let mut contents = Vec::new();
        let mut stream = self.read_stream(path).await?;
        while let Some(part) = stream.recv().await? {
            contents.extend_from_slice(&part);
        }
        Ok(contents)
    }

    /// Reads a file that is UTF-8.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn read_to_string(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<String, MicrosandboxError> {
        let path = path.as_ref();
        String::from_utf8(self.read(path).await?)
            .map_err(|_| odd(path, format!("{path:?} is not UTF-8")))
    }

    /// Reads a file of any size.
    ///
    /// # Errors
    /// See [`SandboxFs`]; that nothing is there the stream says.
    pub async fn read_stream(
        &self,
        path: impl AsRef<Path>,
    ) -> Result<FsReadStream, MicrosandboxError> {
        self.read_range(path, 0, u64::MAX).await
    }

    /// Reads at most `length` bytes of a file from byte `offset` on.
    ///
    /// # Errors
    /// As [`read_stream`](Self::read_stream).
    pub async fn read_range(
        &self,
        path: impl AsRef<Path>,
        offset: u64,
        length: u64,
    ) -> Result<FsReadStream, MicrosandboxError> {
        let path = request_path(path.as_ref());
        let mut session = FileSession::open(&self.machine, "read", &path).await?;
        let request = FileRequest::ReadFrom(bytes(&path), offset, length);
        session.ask(&request).await?;
        Ok(FsReadStream::new(session, length))
    }

    /// Writes a file, which is created with mode 0644 or overwritten. Its directory must exist.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn write(
        &self,
        path: impl AsRef<Path>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), MicrosandboxError> {
        let mut stream = self.write_stream(path, None).await?;
        stream.write_all(contents.as_ref()).await?;
        stream.finish().await
    }

    /// Writes a file of any size, a part at a time. With a `mode`, the file has it afterwards, also if it existed.
    ///
    /// # Errors
    /// See [`SandboxFs`]; that it cannot be written [`FsWriteStream::finish`] says.
    pub async fn write_stream(
        &self,
        path: impl AsRef<Path>,
        mode: Option<u32>,
    ) -> Result<FsWriteStream, MicrosandboxError> {
        let path = request_path(path.as_ref());
        let mut session = FileSession::open(&self.machine, "write", &path).await?;
        let request = match mode {
            Some(mode) => FileRequest::WriteWithMode(bytes(&path), mode),
            None => FileRequest::Write(bytes(&path)),
        };
        session.ask(&request).await?;
        Ok(FsWriteStream::new(session))
    }

    /// Lists a directory, in the order of names, without `.` and `..`. Links are not followed.
    ///
    /// # Errors
    /// See [`SandboxFs`]; above 1,048,576 entries.
    pub async fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FsEntry>, MicrosandboxError> {
        let path = request_path(path.as_ref());
        let mut session = FileSession::open(&self.machine, "list", &path).await?;
        session.ask(&FileRequest::List(bytes(&path))).await?;
        let mut entries = Vec::new();
        while let Some(reply) = session.reply().await? {
            let FileReply::Entry(status) = reply else {
                return Err(out_of_turn());
            };
            if entries.len() as u64 == MAX_ENTRIES {
                return Err(odd(
                    &path,
                    format!("{path:?} has more than {MAX_ENTRIES} entries"),
                ));
            }
            let name = check_name(&status).map_err(|_| out_of_turn())?;
            entries.push(entry(name, &status));
        }
        entries.sort_by(|one: &FsEntry, other| one.name.cmp(&other.name));
        Ok(entries)
    }

    /// Tells about what is at a path. A link is followed.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn stat(&self, path: impl AsRef<Path>) -> Result<FsMetadata, MicrosandboxError> {
        self.examine(path.as_ref(), true).await
    }

    /// Tells about what is at a path, a link itself.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn lstat(&self, path: impl AsRef<Path>) -> Result<FsMetadata, MicrosandboxError> {
        self.examine(path.as_ref(), false).await
    }

    async fn examine(&self, path: &Path, follow: bool) -> Result<FsMetadata, MicrosandboxError> {
        let path = request_path(path);
        let mut session = FileSession::open(&self.machine, "examine", &path).await?;
        let request = FileRequest::Examine(bytes(&path), follow);
        session.ask(&request).await?;
        let found = match session.reply().await? {
            Some(FileReply::Attributes(found)) => found,
            _ => return Err(out_of_turn()),
        };
        session.done().await?;
        Ok(found.into())
    }

    /// Whether anything is at a path. A link that leads to nothing is nothing.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn exists(&self, path: impl AsRef<Path>) -> Result<bool, MicrosandboxError> {
        match self.stat(path).await {
            Ok(_) => Ok(true),
            Err(MicrosandboxError::PathNotFound { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes a directory and those above it that are missing, with mode 0755. That it exists is fine.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), MicrosandboxError> {
        self.act("create", path.as_ref(), FileRequest::MakeDirectory)
            .await
    }

    /// Removes a file, a link or an empty directory.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn remove(&self, path: impl AsRef<Path>) -> Result<(), MicrosandboxError> {
        self.act("remove", path.as_ref(), FileRequest::Remove).await
    }

    /// Removes whatever is at a path, with everything beneath it. That nothing is there is fine.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), MicrosandboxError> {
        self.act("remove", path.as_ref(), FileRequest::RemoveAll)
            .await
    }

    /// Gives a file, link or directory another name, and replaces what has that name as rename(2) does.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), MicrosandboxError> {
        let to = bytes(&request_path(to.as_ref()));
        self.act("rename", from.as_ref(), |from| {
            FileRequest::Rename(from, to)
        })
        .await
    }

    /// Copies a file, a link or a directory with everything beneath it, with owners, permissions and times. A file replaces a
    /// file; a directory or a link must be new.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn copy(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), MicrosandboxError> {
        let to = bytes(&request_path(to.as_ref()));
        self.act("copy", from.as_ref(), |from| FileRequest::Copy(from, to))
            .await
    }

    /// Makes a link at `path` that leads to `target`, whatever that is. Nothing may be there.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn symlink(
        &self,
        target: impl AsRef<Path>,
        path: impl AsRef<Path>,
    ) -> Result<(), MicrosandboxError> {
        let target = bytes(target.as_ref());
        self.act("create", path.as_ref(), |path| {
            FileRequest::MakeSymlink(target, path)
        })
        .await
    }

    /// Where a link leads.
    ///
    /// # Errors
    /// See [`SandboxFs`]; `EINVAL` if there is no link.
    pub async fn read_link(&self, path: impl AsRef<Path>) -> Result<PathBuf, MicrosandboxError> {
        let path = request_path(path.as_ref());
        let mut session = FileSession::open(&self.machine, "read", &path).await?;
        session.ask(&FileRequest::ReadLink(bytes(&path))).await?;
        let target = match session.reply().await? {
            Some(FileReply::Data(target)) => PathBuf::from(OsString::from_vec(target.to_vec())),
            _ => return Err(out_of_turn()),
        };
        session.done().await?;
        Ok(target)
    }

    /// Sets permissions: the lower twelve bits of `st_mode`. A link is followed.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn chmod(&self, path: impl AsRef<Path>, mode: u32) -> Result<(), MicrosandboxError> {
        self.act("change", path.as_ref(), |path| {
            FileRequest::SetMode(path, mode)
        })
        .await
    }

    /// Sets user and group, those that are given. A link is followed.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn chown(
        &self,
        path: impl AsRef<Path>,
        user: Option<u32>,
        group: Option<u32>,
    ) -> Result<(), MicrosandboxError> {
        self.act("change", path.as_ref(), |path| {
            FileRequest::SetOwner(path, user, group)
        })
        .await
    }

    /// Sets when it was read last and when its contents were changed last, those that are given. A link is followed.
    ///
    /// # Errors
    /// See [`SandboxFs`].
    pub async fn set_times(
        &self,
        path: impl AsRef<Path>,
        accessed: Option<SystemTime>,
        modified: Option<SystemTime>,
    ) -> Result<(), MicrosandboxError> {
        let (accessed, modified) = (accessed.map(clock_time), modified.map(clock_time));
        self.act("change", path.as_ref(), |path| {
            FileRequest::SetTimes(path, accessed, modified)
        })
        .await
    }

    /// A request that is answered with its success only.
    async fn act(
        &self,
        action: &'static str,
        path: &Path,
        request: impl FnOnce(protocol::Bytes) -> FileRequest<'static>,
    ) -> Result<(), MicrosandboxError> {
        let path = request_path(path);
        let mut session = FileSession::open(&self.machine, action, &path).await?;
        session.ask(&request(bytes(&path))).await?;
        session.done().await
    }
}

fn clock_time(time: SystemTime) -> ClockTime {
    let seconds = |seconds: u64| i64::try_from(seconds).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(after) => ClockTime {
            seconds: seconds(after.as_secs()),
            nanoseconds: after.subsec_nanos(),
        },
        Err(error) => {
            let before = error.duration();
            let whole = seconds(before.as_secs()).saturating_neg();
            match before.subsec_nanos() {
                0 => ClockTime {
                    seconds: whole,
                    nanoseconds: 0,
                },
                part => ClockTime {
                    seconds: whole.saturating_sub(1),
                    nanoseconds: 1_000_000_000_u32.saturating_sub(part),
                },
            }
        }
    }
}
