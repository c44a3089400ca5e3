//! Why a sandbox's machine does not start.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use disk::DiskError;
use microsandbox::launch::{DiskProblem, Ending, StartFailure, StartStage};
use microsandbox::protocol::Failure;
use vmm::fs::{ExportError, FolderError, QuotaError};
use vmm::machine::BootError;
use vmm::virtio::vsock::VsockError;
use vmm::virtio::{BlkDeviceError, FsDeviceError};

use super::agent::AgentError;

/// Why a sandbox's machine does not start.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// The kernel or the initramfs cannot be opened.
    #[error("cannot open {}", path.display())]
    Kernel {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A folder cannot be shared.
    #[error("cannot share a folder with the guest")]
    Folder(#[from] FolderError),
    /// A folder's device cannot be made.
    #[error("cannot make the device of a shared folder")]
    FolderDevice(#[from] FsDeviceError),
    /// A disk image cannot be opened.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A folder cannot have a quota.
    #[error("cannot limit what a folder may use")]
    Quota(#[from] QuotaError),
    /// A shared folder cannot be an entry of the device.
    #[error("cannot share a folder with the guest")]
    Export(#[from] ExportError),
    /// A disk's device cannot be made.
    #[error("cannot make the device of a disk")]
    DiskDevice(#[from] BlkDeviceError),
    /// The device for connections cannot be made.
    #[error("cannot make the vsock device")]
    Vsock(#[from] VsockError),
    /// The machine cannot be made.
    #[error("cannot boot the machine")]
    Machine(#[from] BootError),
    /// There are no more threads.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// There are no more descriptors.
    #[error("cannot make an event")]
    Event(#[source] io::Error),
    /// The agent never answered.
    #[error("the guest was not ready within {seconds} s")]
    TooSlow {
        /// How long it was given.
        seconds: f32,
    },
    /// The machine ended before the agent answered.
    #[error("the guest ended before it was ready: {0}")]
    Died(Ending),
    /// The agent cannot be talked to.
    #[error("the guest did not come up")]
    Agent(#[source] AgentError),
    /// The agent could not carry out the boot message.
    #[error("the guest could not be set up: {}", .0.message)]
    Guest(Failure),
    /// The sandbox's own process cannot be run.
    #[error("the command cannot be run: {}", .0.message)]
    Main(Failure),
}

impl StartError {
    /// The error as the creator gets it.
    pub(super) fn to_failure(&self, console: Vec<u8>) -> StartFailure {
        let mut errno = 0;
        let mut causes = Vec::new();
        let mut source = self.source();
        while let Some(cause) = source {
            let number = cause
                .downcast_ref::<io::Error>()
                .and_then(io::Error::raw_os_error);
            errno = number.unwrap_or(errno);
            causes.push(cause.to_string());
            source = cause.source();
        }
        if let StartError::Guest(failure) | StartError::Main(failure) = self {
            errno = failure.errno;
        }
        StartFailure {
            stage: self.stage(),
            errno,
            message: self.to_string(),
            causes,
            console,
        }
    }

    fn stage(&self) -> StartStage {
        match self {
            StartError::Kernel { .. } => StartStage::Kernel,
            StartError::Folder(_) | StartError::Quota(_) | StartError::Export(_) => {
                StartStage::Folder
            }
            StartError::Disk(error) => StartStage::Disk(problem(error)),
            StartError::FolderDevice(_) | StartError::DiskDevice(_) | StartError::Vsock(_) => {
                StartStage::Device
            }
            StartError::Machine(BootError::Kernel(_)) => StartStage::Kernel,
            // A monitor that fails is most often a KVM that cannot run ordinary kernels.
            StartError::Machine(_)
            | StartError::Thread(_)
            | StartError::Event(_)
            | StartError::Died(Ending::MonitorFailed { .. }) => StartStage::Machine,
            StartError::TooSlow { .. } | StartError::Died(_) | StartError::Agent(_) => {
                StartStage::Boot
            }
            StartError::Guest(failure) | StartError::Main(failure) => {
                StartStage::Guest(failure.stage)
            }
        }
    }
}

fn problem(error: &DiskError) -> DiskProblem {
    match error {
        DiskError::InUse { .. } => DiskProblem::InUse,
        DiskError::NotAllowed { .. } => DiskProblem::NotAllowed,
        DiskError::Invalid { .. } | DiskError::Unsupported { .. } => DiskProblem::Format,
        DiskError::Open { .. } | DiskError::Io { .. } => DiskProblem::File,
    }
}

#[cfg(test)]
mod tests {
    use microsandbox::protocol::Stage;

    use super::*;

    #[test]
    fn causes_and_error_number_are_kept() {
        let source = io::Error::from_raw_os_error(libc::EACCES);
        let failure = StartError::Kernel {
            path: "/k".into(),
            source,
        }
        .to_failure(b"log".to_vec());
        assert_eq!(failure.stage, StartStage::Kernel);
        assert_eq!(failure.errno, libc::EACCES);
        assert_eq!(failure.message, "cannot open /k");
        assert_eq!(failure.causes, ["Permission denied (os error 13)"]);
        assert_eq!(failure.console, b"log");
    }

    #[test]
    fn the_agents_stage_and_error_number_are_kept() {
        let failure = Failure {
            stage: Stage::Mount,
            errno: 2,
            message: "no /data".into(),
        };
        let failure = StartError::Guest(failure).to_failure(Vec::new());
        assert_eq!(failure.stage, StartStage::Guest(Stage::Mount));
        assert_eq!(failure.errno, 2);
        assert!(failure.message.contains("no /data"));
    }
}
