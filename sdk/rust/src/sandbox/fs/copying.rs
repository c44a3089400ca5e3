//! Whole trees between the host and a guest.
//!
//! The host's files are read and written by a thread that may wait, the guest's over the session; between the two are a few
//! parts in memory.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use files::{Files, FilesError, TreePolicy, TreeReport, TreeSink, TreeWriter};
use protocol::{FileReply, FileRequest, TreeNode};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::error::{odd, on_host};
use super::session::{FileSession, out_of_turn, request_path};
use super::{SandboxFs, streams::PART};
use crate::error::{MicrosandboxError, failed};
use crate::file_replies::bytes;

/// Parts of a tree that wait for the other side.
const PARTS: usize = 8;

/// What a copy takes over besides contents, permissions and times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CopyOptions {
    /// Owners, when this process is root's. Otherwise the copies are the caller's.
    pub owners: bool,
    /// Set-user-ID and set-group-ID bits, FIFOs, sockets and, for root, device nodes. A guest may have made these to harm who
    /// comes across them on the host. Otherwise the bits are dropped, and such files left out and [told](TreeReport::skipped).
    pub special: bool,
}

impl Default for CopyOptions {
    /// Owners, and nothing special.
    fn default() -> CopyOptions {
        CopyOptions {
            owners: true,
            special: false,
        }
    }
}

/// A part of a tree on its way from the guest.
#[derive(Debug)]
pub(super) enum Part {
    Node(TreeNode),
    Data(Bytes),
    Hole(u64),
}

impl SandboxFs {
    /// Copies what is at `from` in the guest to `to` on the host, a directory with everything beneath it: with permissions and
    /// times, for root with owners; links stay links, names of one file stay that, and holes stay holes. Of extended
    /// attributes the user's come with it, with owners the access control lists, and with [`CopyOptions::special`] capabilities.
    ///
    /// A directory that is at `to` already is taken as it is and added to; in it, files and links are replaced, directories are
    /// not. `to` itself may be a link to a directory; no link beneath it is followed, whatever the guest sends. What was copied
    /// before an error stays. A guest can send without end: that is bounded by the disk only.
    ///
    /// # Errors
    /// See [`SandboxFs`]; of the host [`MicrosandboxError::Fs`].
    pub async fn copy_to_host(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<TreeReport, MicrosandboxError> {
        self.copy_to_host_with(from, to, CopyOptions::default())
            .await
    }

    /// As [`copy_to_host`](Self::copy_to_host), with the choice of what is taken over.
    ///
    /// # Errors
    /// As [`copy_to_host`](Self::copy_to_host).
    pub async fn copy_to_host_with(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
        options: CopyOptions,
    ) -> Result<TreeReport, MicrosandboxError> {
        let to = to.as_ref().to_owned();
        self.read_tree(from.as_ref(), move |parts| write_host(&to, parts, options))
            .await
    }

    /// Copies what is at `from` on the host to `to` in the guest, as [`copy_to_host`](Self::copy_to_host) does the other way, with
    /// owners, set-user-ID bits, FIFOs and device nodes. The directory of `to` must exist. A link at `from` is copied itself.
    ///
    /// # Errors
    /// See [`SandboxFs`]; of the host [`MicrosandboxError::Fs`].
    pub async fn copy_from_host(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), MicrosandboxError> {
        let from = from.as_ref().to_owned();
        self.write_tree(to.as_ref(), move |outgoing| {
            let place = HostPlace::of_source(&from)?;
            let files = place.open()?;
            match files.read_tree(&place.name, outgoing) {
                Ok(()) | Err(Stopped::GuestHasEnough) => Ok(()),
                Err(Stopped::Files(error)) => Err(on_host(error, &place.directory)),
            }
        })
        .await
    }

    /// Reads a tree of the guest and gives its parts to `take`, in a thread that may wait. Its channel ends early when the guest
    /// fails.
    pub(super) async fn read_tree<T: Send + 'static>(
        &self,
        from: &Path,
        take: impl FnOnce(mpsc::Receiver<Part>) -> Result<T, MicrosandboxError> + Send + 'static,
    ) -> Result<T, MicrosandboxError> {
        let path = request_path(from);
        let mut session = FileSession::open(&self.machine, "copy", &path).await?;
        session.ask(&FileRequest::ReadTree(bytes(&path))).await?;
        let (sender, parts) = mpsc::channel(PARTS);
        let taking = spawn_blocking(move || take(parts));
        let read = pass_on(&mut session, sender).await;
        let taken = joined(taking).await;
        match read {
            Ok(()) => taken,
            // Whoever takes the parts was the first to fail, or does so because they ended too early.
            Err(Stop::NobodyTakes) => taken.and(Err(odd(from, "The copy ended early"))),
            Err(Stop::Guest(error)) => Err(error),
        }
    }

    /// Writes a tree in the guest, which `give` gives in a thread that may wait.
    pub(super) async fn write_tree(
        &self,
        to: &Path,
        give: impl FnOnce(&mut Outgoing) -> Result<(), MicrosandboxError> + Send + 'static,
    ) -> Result<(), MicrosandboxError> {
        let path = request_path(to);
        let mut session = FileSession::open(&self.machine, "copy", &path).await?;
        session.ask(&FileRequest::WriteTree(bytes(&path))).await?;
        session.begun().await?;
        let (sender, mut batches) = mpsc::channel::<Vec<u8>>(PARTS);
        let giving = spawn_blocking(move || {
            let mut outgoing = Outgoing::new(sender);
            let given = give(&mut outgoing);
            outgoing.flush();
            given
        });
        // The agent says something before the end only if it cannot go on.
        let mut is_refused = false;
        while !is_refused && let Some(batch) = batches.recv().await {
            session.send(&batch).await?;
            is_refused = session.has_news();
        }
        drop(batches);
        let given = joined(giving).await;
        if is_refused {
            // Why, it says; what the host's side says then follows from it.
            session.done().await?;
            return Err(out_of_turn());
        }
        given?;
        session.ask(&FileRequest::End).await?;
        session.done().await
    }
}

/// Why a tree of the guest is not read to its end.
enum Stop {
    NobodyTakes,
    Guest(MicrosandboxError),
}

/// Passes the parts of a tree on.
async fn pass_on(session: &mut FileSession, sender: mpsc::Sender<Part>) -> Result<(), Stop> {
    loop {
        let part = match session.reply().await.map_err(Stop::Guest)? {
            Some(FileReply::Node(node)) => Part::Node(node),
            Some(FileReply::Data(data)) => Part::Data(Bytes::copy_from_slice(data)),
            Some(FileReply::Hole(length)) => Part::Hole(length),
            Some(_) => return Err(Stop::Guest(out_of_turn())),
            None => return Ok(()),
        };
        sender.send(part).await.map_err(|_| Stop::NobodyTakes)?;
    }
}

async fn joined<T>(task: JoinHandle<Result<T, MicrosandboxError>>) -> Result<T, MicrosandboxError> {
    task.await.map_err(MicrosandboxError::runtime(
        "A thread that copies files panicked",
    ))?
}

/// Writes a tree to `to` on the host.
fn write_host(
    to: &Path,
    mut parts: mpsc::Receiver<Part>,
    options: CopyOptions,
) -> Result<TreeReport, MicrosandboxError> {
    let place = HostPlace::of_target(to)?;
    let files = place.open()?;
    let policy = TreePolicy {
        owners: options.owners,
        special: options.special,
    };
    let mut write = || {
        let mut writer = TreeWriter::new(&files, &place.name, policy)?;
        while let Some(part) = parts.blocking_recv() {
            match part {
                Part::Node(node) => writer.node(node)?,
                Part::Data(data) => writer.data(&data)?,
                Part::Hole(length) => writer.hole(length)?,
            }
        }
        writer.finish()
    };
    write().map_err(|error: FilesError| on_host(error, &place.directory))
}

/// A place on the host: a directory, and a name in it or nothing for the directory itself.
pub(super) struct HostPlace {
    pub(super) directory: PathBuf,
    pub(super) name: PathBuf,
}

impl HostPlace {
    /// Where something is to be written. A directory that is there is added to.
    fn of_target(path: &Path) -> Result<HostPlace, MicrosandboxError> {
        match path.is_dir() {
            true => HostPlace::itself(path),
            false => HostPlace::of_source(path),
        }
    }

    /// Where something is.
    fn of_source(path: &Path) -> Result<HostPlace, MicrosandboxError> {
        let Some(name) = path.file_name() else {
            return HostPlace::itself(path);
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let directory = canonical(parent)?;
        let name = name.into();
        Ok(HostPlace { directory, name })
    }

    fn itself(path: &Path) -> Result<HostPlace, MicrosandboxError> {
        Ok(HostPlace {
            directory: canonical(path)?,
            name: PathBuf::new(),
        })
    }

    fn open(&self) -> Result<Files, MicrosandboxError> {
        Files::open(&self.directory).map_err(|error| on_host(error, &self.directory))
    }
}

fn canonical(path: &Path) -> Result<PathBuf, MicrosandboxError> {
    path.canonicalize().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => MicrosandboxError::PathNotFound {
            path: path.to_owned(),
        },
        _ => failed("open", path)(error),
    })
}

/// A tree on its way to the guest, as frames of requests.
pub(super) struct Outgoing {
    batch: Vec<u8>,
    sender: mpsc::Sender<Vec<u8>>,
}

/// Why a tree is not read to its end.
#[derive(Debug)]
pub(super) enum Stopped {
    Files(FilesError),
    /// The session is over, or refuses the rest.
    GuestHasEnough,
}

impl From<FilesError> for Stopped {
    fn from(error: FilesError) -> Stopped {
        Stopped::Files(error)
    }
}

impl Outgoing {
    fn new(sender: mpsc::Sender<Vec<u8>>) -> Outgoing {
        Outgoing {
            batch: Vec::new(),
            sender,
        }
    }

    fn add(&mut self, request: &FileRequest<'_>) -> Result<(), Stopped> {
        // Nodes have paths and targets of at most 4095 bytes, and data comes in parts.
        protocol::encode(request, &mut self.batch).map_err(|_| Stopped::GuestHasEnough)?;
        match self.batch.len() >= PART {
            true => self.send(),
            false => Ok(()),
        }
    }

    fn send(&mut self) -> Result<(), Stopped> {
        let batch = std::mem::take(&mut self.batch);
        let sent = self.sender.blocking_send(batch);
        sent.map_err(|_| Stopped::GuestHasEnough)
    }

    /// Sends what is left.
    fn flush(&mut self) {
        if !self.batch.is_empty() {
            // Whoever takes no more knows why.
            let _ = self.send();
        }
    }
}

impl TreeSink for Outgoing {
    type Error = Stopped;

    fn node(&mut self, node: TreeNode) -> Result<(), Stopped> {
        self.add(&FileRequest::Node(node))
    }

    fn data(&mut self, data: &[u8]) -> Result<(), Stopped> {
        self.add(&FileRequest::Data(data))
    }

    fn hole(&mut self, length: u64) -> Result<(), Stopped> {
        self.add(&FileRequest::Hole(length))
    }
}
