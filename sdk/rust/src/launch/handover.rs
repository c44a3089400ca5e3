//! What passes from the creator to the machine's process at its birth.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use protocol::{FrameError, FrameReader};
use serde::{Deserialize, Serialize};

use super::config::{LaunchConfig, path_bytes};
use crate::run_directory::RunDirectory;

/// Everything that the machine's process starts with.
#[derive(Debug)]
pub struct Handover {
    /// What the machine is to be.
    pub config: LaunchConfig,
    /// Its run directory, to be removed at the end.
    pub directory: RunDirectory,
    /// The run directory's lock.
    pub lock: File,
    /// Where clients connect to the agent.
    pub listener: UnixListener,
    /// Where clients connect to the machine's process.
    pub control: UnixListener,
    /// Where [`Report`](super::Report)s go.
    pub reports: File,
    /// Where [`Command`](super::Command)s come from.
    pub commands: File,
    /// What stands for the volumes in use, which they are until these are closed.
    pub volumes: Vec<OwnedFd>,
    /// Where the guest kernel's log goes.
    pub console: Option<File>,
}

/// Why the machine's process cannot take over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Somebody else than the SDK started it.
    #[error("Descriptor {number} is not open")]
    Descriptor {
        /// Its number.
        number: RawFd,
        /// The reason.
        source: io::Error,
    },
    /// The configuration cannot be read.
    #[error("Failed to read the launch configuration")]
    Config(#[from] FrameError),
    /// The configuration is absent.
    #[error("The launch configuration is empty")]
    Empty,
    /// Creator and machine's process are not the same release, so their data cannot be trusted to
    /// mean the same.
    #[error("The launch configuration is from release {creator}, this program is {BUILD}")]
    Build {
        /// Release of the creator.
        creator: String,
    },
}

/// Release of this library.
const BUILD: &str = env!("CARGO_PKG_VERSION");

/// Comes first on the wire, so that another release is recognised whatever else has changed.
#[derive(Serialize, Deserialize)]
struct Greeting {
    build: String,
}

/// Comes second: the configuration, and under which numbers the rest is inherited.
#[derive(Serialize, Deserialize)]
struct Contents {
    config: LaunchConfig,
    #[serde(with = "path_bytes")]
    directory: PathBuf,
    lock: RawFd,
    listener: RawFd,
    control: RawFd,
    reports: RawFd,
    commands: RawFd,
    volumes: Vec<RawFd>,
    console: Option<RawFd>,
}

impl Handover {
    /// Writes everything into a file without a name, whose descriptor the child inherits together
    /// with [`descriptors`](Self::descriptors).
    pub(super) fn write(&self) -> Result<File, FrameError> {
        let contents = Contents {
            config: self.config.clone(),
            directory: self.directory.path().to_owned(),
            lock: self.lock.as_raw_fd(),
            listener: self.listener.as_raw_fd(),
            control: self.control.as_raw_fd(),
            reports: self.reports.as_raw_fd(),
            commands: self.commands.as_raw_fd(),
            volumes: self.volumes.iter().map(AsRawFd::as_raw_fd).collect(),
            console: self.console.as_ref().map(AsRawFd::as_raw_fd),
        };
        let mut frames = Vec::new();
        protocol::encode(
            &Greeting {
                build: BUILD.to_owned(),
            },
            &mut frames,
        )?;
        protocol::encode(&contents, &mut frames)?;
        let file = memfd_create(c"msb launch", MFdFlags::MFD_CLOEXEC).map_err(io::Error::from)?;
        let mut file = File::from(file);
        file.write_all(&frames)?;
        file.rewind()?;
        Ok(file)
    }

    /// What the child has to inherit, besides the file from [`write`](Self::write).
    pub(super) fn descriptors(&self) -> Vec<RawFd> {
        let console = self.console.as_ref().map(AsRawFd::as_raw_fd);
        [
            self.lock.as_raw_fd(),
            self.listener.as_raw_fd(),
            self.control.as_raw_fd(),
            self.reports.as_raw_fd(),
            self.commands.as_raw_fd(),
        ]
        .into_iter()
        .chain(self.volumes.iter().map(AsRawFd::as_raw_fd))
        .chain(console)
        .collect()
    }

    /// Takes over what [`MachineProcess::spawn`](super::MachineProcess::spawn) left to this process.
    /// `number` is the descriptor that it named on the command line.
    ///
    /// # Errors
    /// When this process was not started so, or by another release.
    pub fn receive(number: RawFd) -> Result<Handover, HandoverError> {
        let mut reader = FrameReader::new(File::from(inherited(number)?));
        let greeting: Greeting = reader.read()?.ok_or(HandoverError::Empty)?;
        if greeting.build != BUILD {
            return Err(HandoverError::Build {
                creator: greeting.build,
            });
        }
        let contents: Contents = reader.read()?.ok_or(HandoverError::Empty)?;
        Ok(Handover {
            config: contents.config,
            directory: RunDirectory::at(contents.directory),
            lock: File::from(inherited(contents.lock)?),
            listener: UnixListener::from(inherited(contents.listener)?),
            control: UnixListener::from(inherited(contents.control)?),
            reports: File::from(inherited(contents.reports)?),
            commands: File::from(inherited(contents.commands)?),
            volumes: contents
                .volumes
                .into_iter()
                .map(inherited)
                .collect::<Result<_, _>>()?,
            console: contents.console.map(inherited).transpose()?.map(File::from),
        })
    }
}

/// Takes possession of a descriptor that was inherited under `number`.
fn inherited(number: RawFd) -> Result<OwnedFd, HandoverError> {
    let not_open = |source| HandoverError::Descriptor { number, source };
    if number <= libc::STDERR_FILENO {
        return Err(not_open(io::ErrorKind::InvalidInput.into()));
    }
    // SAFETY: F_GETFD only looks whether the number is a descriptor.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(not_open(io::Error::last_os_error()));
    }
    // SAFETY: the descriptor is open, and the creator made it for this purpose: nothing else in this
    // process has opened or owns it.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    fcntl(&descriptor, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|error| not_open(error.into()))?;
    Ok(descriptor)
}
