//! Why something cannot be done with a sandbox.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::database::DatabaseError;
use crate::home::NoHome;
use crate::images::ImageError;
use crate::launch::{BootFileError, LaunchError, NoProgram, ReportError, StartFailure, StartStage};
use crate::logs::LogError;
use crate::private_directory::PrivateDirectoryError;
use crate::run_directory::RunDirectoryError;
use crate::sandbox::{SandboxStatus, SandboxStopResult};
use crate::snapshots::SnapshotError;
use crate::volumes::{VolumeError, VolumeFsError};

/// Something cannot be done with a sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MicrosandboxError {
    /// There is no sandbox of this name.
    #[error("No sandbox named {name:?} exists")]
    SandboxNotFound {
        /// The name.
        name: String,
    },
    /// There is a sandbox of this name, or somebody creates one just now and has not recorded it yet.
    #[error("A sandbox named {name:?} exists")]
    SandboxAlreadyExists {
        /// The name.
        name: String,
    },
    /// The sandbox runs, and this is for one that does not.
    #[error("The sandbox {name:?} is running: stop it first")]
    SandboxRunning {
        /// The name.
        name: String,
    },
    /// The sandbox does not run, and this is for one that does.
    #[error("The sandbox {name:?} is {status}: {}", remedy(*status))]
    SandboxNotRunning {
        /// The name.
        name: String,
        /// What it is instead.
        status: SandboxStatus,
    },
    /// The sandbox lets commands end and begins none.
    #[error(
        "The sandbox {name:?} is draining: it takes no new commands and stops when those that run have ended"
    )]
    SandboxDraining {
        /// The name.
        name: String,
    },
    /// The sandbox ended while something was done in it.
    #[error("The sandbox {name:?} ended meanwhile{}", how(end.as_deref()))]
    SandboxEnded {
        /// The name.
        name: String,
        /// How it ended; `None` for an ephemeral one that was gone before anybody could ask.
        end: Option<Box<SandboxStopResult>>,
    },
    /// What was asked for makes no sandbox.
    #[error("The configuration of the sandbox cannot be used: {field}: {reason}")]
    InvalidConfig {
        /// Field of [`SandboxConfig`](crate::sandbox::SandboxConfig).
        field: String,
        /// What is wrong with it, as a clause.
        reason: String,
    },
    /// The guest did not come up.
    #[error("The sandbox did not start: {}", .0.message)]
    BootFailed(Box<BootFailure>),
    /// A command could not be run in the guest.
    #[error("The command could not be run: {message}")]
    ExecFailed {
        /// The step of the agent that failed.
        stage: protocol::Stage,
        /// Linux error number, 0 where none applies.
        errno: i32,
        /// What failed, as a sentence.
        message: String,
    },
    /// A command took longer than it was given, and was killed.
    #[error("The command took longer than {} s", timeout.as_secs_f64())]
    ExecTimeout {
        /// What it was given.
        timeout: Duration,
    },
    /// There is no such session.
    #[error("The sandbox {name:?} has no session {session}")]
    SessionNotFound {
        /// Name of the sandbox.
        name: String,
        /// The session.
        session: u64,
    },
    /// Somebody else is attached to the session.
    #[error("Somebody else is attached to the session of the sandbox {name:?}")]
    SessionInUse {
        /// Name of the sandbox.
        name: String,
    },
    /// There is no such path.
    #[error("{path} does not exist")]
    PathNotFound {
        /// The path.
        path: PathBuf,
    },
    /// Something cannot be done with a file of the guest.
    #[error("{message}")]
    Fs {
        /// The path, where there is one.
        path: PathBuf,
        /// Linux error number, 0 where none applies.
        errno: i32,
        /// What failed, as a sentence.
        message: String,
    },
    /// Something cannot be done with a volume.
    #[error(transparent)]
    Volume(#[from] VolumeError),
    /// Something cannot be done with the files of a volume.
    #[error(transparent)]
    VolumeFs(#[from] VolumeFsError),
    /// Something cannot be done with an image.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// Something cannot be done with a snapshot.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A log cannot be read.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
    /// `msb`, the guest's kernel or its initramfs is missing.
    #[error("microsandbox is not installed")]
    NotInstalled(#[source] NotInstalled),
    /// The home directory cannot be told.
    #[error(transparent)]
    NoHome(#[from] NoHome),
    /// The machine's process cannot be started, or cannot be understood.
    #[error("{message}")]
    Runtime {
        /// What failed, as a sentence.
        message: String,
        /// Why, if something more is known.
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A system call failed.
    #[error("Failed to {action} {path}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// The handle does not lead to this sandbox any more: it was detached or closed, or another sandbox has its name.
    #[error("The handle of the sandbox {name:?} is no longer valid")]
    InvalidHandle {
        /// Name of the sandbox.
        name: String,
    },
    /// Something took too long.
    #[error("{what} did not happen within {} s", after.as_secs_f64())]
    Timeout {
        /// What was waited for, as a noun.
        what: String,
        /// How long.
        after: Duration,
    },
    /// The changes of the sandbox cannot become an image.
    #[error("The sandbox {name:?} cannot become an image: {reason}")]
    NotCommittable {
        /// Name of the sandbox.
        name: String,
        /// Why.
        reason: CommitObstacle,
    },
    /// This cannot be done in this state or on this machine.
    #[error("{message}")]
    Unsupported {
        /// What and why, as a sentence.
        message: String,
    },
}

/// Kinds of [`MicrosandboxError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(
    missing_docs,
    reason = "each is described at the variant of the same name"
)]
pub enum ErrorKind {
    SandboxNotFound,
    SandboxAlreadyExists,
    SandboxRunning,
    SandboxNotRunning,
    SandboxDraining,
    SandboxEnded,
    InvalidConfig,
    BootFailed,
    ExecFailed,
    ExecTimeout,
    SessionNotFound,
    SessionInUse,
    PathNotFound,
    PathEscape,
    Fs,
    VolumeNotFound,
    VolumeAlreadyExists,
    VolumeInUse,
    Volume,
    ImageNotFound,
    ImageInUse,
    ImagePullFailed,
    InvalidReference,
    Image,
    SnapshotNotFound,
    SnapshotAlreadyExists,
    Snapshot,
    Log,
    Database,
    NotInstalled,
    Runtime,
    Io,
    InvalidHandle,
    Timeout,
    Unsupported,
}

/// Why the changes of a sandbox cannot become an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CommitObstacle {
    /// Its root is a folder or a disk, over which no image can lay a layer.
    #[error("its root is no image")]
    NoImage,
    /// They were kept in its memory.
    #[error("its changes were in its memory, and are gone")]
    InMemory,
    /// There are none, or they are in the root itself.
    #[error("its root has no private layer")]
    NoLayer,
}

/// Why a guest did not come up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BootFailure {
    /// Name of the sandbox.
    pub name: String,
    /// The step that failed; `None` if the machine's process ended without a word.
    pub stage: Option<StartStage>,
    /// Linux error number, 0 where none applies.
    pub errno: i32,
    /// What failed, as a sentence.
    pub message: String,
    /// Why, from the nearest reason to the farthest.
    pub causes: Vec<String>,
    /// The last lines of the guest kernel's log.
    pub console: Vec<u8>,
}

impl BootFailure {
    pub(crate) fn new(name: &str, failure: StartFailure) -> BootFailure {
        BootFailure {
            name: name.to_owned(),
            stage: Some(failure.stage),
            errno: failure.errno,
            message: failure.message,
            causes: failure.causes,
            console: failure.console,
        }
    }
}

/// Something that every sandbox needs is missing.
#[derive(Debug, thiserror::Error)]
pub enum NotInstalled {
    /// The program `msb`.
    #[error(transparent)]
    Program(#[from] NoProgram),
    /// The guest's kernel or its initramfs.
    #[error(transparent)]
    BootFile(#[from] BootFileError),
    /// A program `msb` of this library's release.
    #[error("{} is of release {release}, and this library of {wanted}", path.display())]
    OtherRelease {
        /// The program.
        path: PathBuf,
        /// Its release.
        release: String,
        /// The library's.
        wanted: &'static str,
    },
}

impl MicrosandboxError {
    /// What kind of error it is.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::SandboxNotFound { .. } => ErrorKind::SandboxNotFound,
            Self::SandboxAlreadyExists { .. } => ErrorKind::SandboxAlreadyExists,
            Self::SandboxRunning { .. } => ErrorKind::SandboxRunning,
            Self::SandboxNotRunning { .. } => ErrorKind::SandboxNotRunning,
            Self::SandboxDraining { .. } => ErrorKind::SandboxDraining,
            Self::SandboxEnded { .. } => ErrorKind::SandboxEnded,
            Self::InvalidConfig { .. } => ErrorKind::InvalidConfig,
            Self::BootFailed(_) => ErrorKind::BootFailed,
            Self::ExecFailed { .. } => ErrorKind::ExecFailed,
            Self::ExecTimeout { .. } => ErrorKind::ExecTimeout,
            Self::SessionNotFound { .. } => ErrorKind::SessionNotFound,
            Self::SessionInUse { .. } => ErrorKind::SessionInUse,
            Self::PathNotFound { .. } | Self::VolumeFs(VolumeFsError::NotFound { .. }) => {
                ErrorKind::PathNotFound
            }
            Self::VolumeFs(VolumeFsError::PathEscape { .. }) => ErrorKind::PathEscape,
            Self::Fs { .. } => ErrorKind::Fs,
            Self::Volume(VolumeError::VolumeNotFound { .. }) => ErrorKind::VolumeNotFound,
            Self::Volume(VolumeError::VolumeAlreadyExists { .. }) => ErrorKind::VolumeAlreadyExists,
            Self::Volume(VolumeError::VolumeInUse { .. }) => ErrorKind::VolumeInUse,
            Self::Volume(_) | Self::VolumeFs(_) => ErrorKind::Volume,
            Self::Image(ImageError::ImageNotFound { .. }) => ErrorKind::ImageNotFound,
            Self::Image(ImageError::ImageInUse { .. }) => ErrorKind::ImageInUse,
            Self::Image(ImageError::PullFailed { .. }) => ErrorKind::ImagePullFailed,
            Self::Image(ImageError::InvalidReference(_)) => ErrorKind::InvalidReference,
            Self::Image(_) => ErrorKind::Image,
            Self::Snapshot(SnapshotError::SnapshotNotFound { .. }) => ErrorKind::SnapshotNotFound,
            Self::Snapshot(SnapshotError::SnapshotAlreadyExists { .. }) => {
                ErrorKind::SnapshotAlreadyExists
            }
            Self::Snapshot(SnapshotError::ImageMissing { .. }) => ErrorKind::ImageNotFound,
            Self::Snapshot(SnapshotError::NoLayer { .. }) => ErrorKind::Unsupported,
            Self::Snapshot(_) => ErrorKind::Snapshot,
            Self::Log(_) => ErrorKind::Log,
            Self::Database(_) => ErrorKind::Database,
            Self::NotInstalled(_) => ErrorKind::NotInstalled,
            Self::Runtime { .. } => ErrorKind::Runtime,
            Self::Io { .. } | Self::NoHome(_) => ErrorKind::Io,
            Self::InvalidHandle { .. } => ErrorKind::InvalidHandle,
            Self::Timeout { .. } => ErrorKind::Timeout,
            Self::NotCommittable { .. } | Self::Unsupported { .. } => ErrorKind::Unsupported,
        }
    }

    pub(crate) fn invalid(field: &str, reason: impl ToString) -> MicrosandboxError {
        MicrosandboxError::InvalidConfig {
            field: field.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// Makes an error of something else one of the machine's process.
    pub(crate) fn runtime<E: std::error::Error + Send + Sync + 'static>(
        message: &str,
    ) -> impl FnOnce(E) -> MicrosandboxError + use<E> {
        let message = message.to_owned();
        move |source| MicrosandboxError::Runtime {
            message,
            source: Some(Box::new(source)),
        }
    }
}

impl From<RunDirectoryError> for MicrosandboxError {
    fn from(error: RunDirectoryError) -> MicrosandboxError {
        match error {
            RunDirectoryError::NameInUse { name } => MicrosandboxError::SandboxRunning { name },
            RunDirectoryError::NotRunning { name } => MicrosandboxError::SandboxNotRunning {
                name,
                status: SandboxStatus::Stopped,
            },
            RunDirectoryError::Directory(error) => error.into(),
            RunDirectoryError::Io {
                action,
                path,
                source,
            } => MicrosandboxError::Io {
                action,
                path,
                source,
            },
        }
    }
}

impl From<PrivateDirectoryError> for MicrosandboxError {
    fn from(error: PrivateDirectoryError) -> MicrosandboxError {
        MicrosandboxError::Runtime {
            message: "The home directory cannot be used".to_owned(),
            source: Some(Box::new(error)),
        }
    }
}

impl From<LaunchError> for MicrosandboxError {
    fn from(error: LaunchError) -> MicrosandboxError {
        MicrosandboxError::runtime("The machine's process cannot be started")(error)
    }
}

impl From<ReportError> for MicrosandboxError {
    fn from(error: ReportError) -> MicrosandboxError {
        MicrosandboxError::runtime("The machine's process cannot be understood")(error)
    }
}

impl From<NoProgram> for MicrosandboxError {
    fn from(error: NoProgram) -> MicrosandboxError {
        MicrosandboxError::NotInstalled(error.into())
    }
}

impl From<BootFileError> for MicrosandboxError {
    fn from(error: BootFileError) -> MicrosandboxError {
        MicrosandboxError::NotInstalled(error.into())
    }
}

/// What makes a sandbox run, as a clause.
fn remedy(status: SandboxStatus) -> &'static str {
    match status {
        SandboxStatus::Paused => "resume it first",
        SandboxStatus::Starting => "wait until it is up",
        SandboxStatus::Stopping => "wait until it has stopped, and start it",
        SandboxStatus::Running
        | SandboxStatus::Draining
        | SandboxStatus::Stopped
        | SandboxStatus::Crashed => "start it first",
    }
}

/// What follows in a message about the end of a sandbox.
fn how(end: Option<&SandboxStopResult>) -> String {
    end.map(|end| format!(": {}", end.reason))
        .unwrap_or_default()
}

/// Makes an error of a system call one of a sandbox.
pub(crate) fn failed(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(io::Error) -> MicrosandboxError {
    let path = path.to_owned();
    move |source| MicrosandboxError::Io {
        action,
        path,
        source,
    }
}
