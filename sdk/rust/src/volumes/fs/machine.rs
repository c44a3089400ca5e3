//! The machine that mounts the disk of a volume for one call.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use protocol::{Bytes, MountOptions};

use super::VolumeFsError;
use super::remote::{Remote, RemoteError};
use crate::launch::{
    BOOT_TIMEOUT_MS, BootFileError, DiskImage, DiskProblem, Ending, HostPath, INITRAMFS, KERNEL,
    LaunchConfig, LaunchError, Lifetime, MachineProcess, Mount, MountSource, NoProgram, Program,
    Report, ReportError, Root, RootAccess, RootSource, StartStage,
};
use crate::names::{Name, NameError};
use crate::run_directory::{RunDirectory, RunDirectoryError};
use crate::volumes::{
    NamedVolume, VolumeError, VolumeHandle, VolumeMode, VolumeUse, Volumes, disk_image,
};

/// Where the disk is mounted in the guest.
const DIRECTORY: &str = "/volume";

/// Memory of the guest in bytes: the agent holds a part of a file at a time, the rest is the kernel's.
const MEMORY: u64 = 128 << 20;

/// The machine that reaches the files of a disk failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeMachineError {
    /// The volume cannot be taken into use.
    #[error("The volume cannot be taken into use")]
    Volume(#[from] VolumeError),
    /// There is no `msb`.
    #[error(transparent)]
    Program(#[from] NoProgram),
    /// There is no kernel or no initramfs.
    #[error(transparent)]
    BootFile(#[from] BootFileError),
    /// The machine cannot have a name.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The machine cannot have a place in the home directory.
    #[error(transparent)]
    RunDirectory(#[from] RunDirectoryError),
    /// Its process cannot be started.
    #[error(transparent)]
    Launch(#[from] LaunchError),
    /// Its process cannot be understood.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// Its process cannot be waited for.
    #[error("The machine cannot be waited for")]
    Wait(#[from] io::Error),
    /// The guest did not come up.
    #[error("The machine did not start: {reason}")]
    Start {
        /// Why.
        reason: String,
    },
    /// The guest did not end as it should, so what was written may be lost.
    #[error("The machine did not shut down cleanly ({})", how.as_ref().map_or("without a word".to_owned(), |how| format!("{how:?}")))]
    End {
        /// How it ended, if it could tell.
        how: Option<Ending>,
    },
    /// The agent in the guest could not do its work.
    #[error("The agent of the machine failed")]
    Agent(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// A machine whose guest is up. Dropping it kills it.
pub(super) struct Machine(MachineProcess);

impl Machine {
    /// Starts it with the disk of `volume`, which is in use from here on.
    ///
    /// # Errors
    /// [`VolumeFsError::Unsupported`] if the disk is in use already.
    pub(super) fn start(volume: &VolumeHandle, image: PathBuf) -> Result<Machine, VolumeFsError> {
        // A sandbox may have it by its path.
        if disk_image::is_open(&image) {
            return Err(in_use(volume));
        }
        let name = name(volume).map_err(failed(volume))?;
        let volume_use = match acquire(volume, &name) {
            Err(VolumeError::VolumeInUse { .. }) => return Err(in_use(volume)),
            result => result.map_err(failed(volume))?,
        };
        let process = launch(volume, name, image, volume_use).map_err(failed(volume))?;
        let mut machine = Machine(process);
        machine.wait_until_ready(volume)?;
        Ok(machine)
    }

    /// Does `work` with the files on the disk, and shuts the machine down, so that what was changed is durable.
    ///
    /// # Errors
    /// Those of `work`; [`VolumeFsError::Machine`].
    pub(super) fn work<T>(
        mut self,
        volume: &VolumeHandle,
        work: impl FnOnce(&mut Remote) -> Result<T, RemoteError>,
    ) -> Result<T, VolumeFsError> {
        let stream = self.connect().map_err(failed(volume))?;
        let result = Remote::attach(stream, DIRECTORY).and_then(|mut remote| {
            let result = work(&mut remote)?;
            remote.finish()?;
            Ok(result)
        });
        let result = match result {
            Err(RemoteError::Agent(error)) => {
                return Err(failed(volume)(VolumeMachineError::Agent(error)));
            }
            Err(RemoteError::Files(error)) => Err(VolumeFsError::from(error)),
            Ok(result) => Ok(result),
        };
        self.shut_down().map_err(failed(volume))?;
        result
    }

    fn connect(&self) -> Result<UnixStream, VolumeMachineError> {
        Ok(self.0.connect()?)
    }

    fn wait_until_ready(&mut self, volume: &VolumeHandle) -> Result<(), VolumeFsError> {
        let reason = match self.next_report().map_err(failed(volume))? {
            Some(Report::Ready(_)) => return Ok(()),
            Some(Report::Failed(failure)) => {
                // Somebody was faster.
                if failure.stage == StartStage::Disk(DiskProblem::InUse) {
                    return Err(in_use(volume));
                }
                let mut reasons = vec![failure.message];
                reasons.extend(failure.causes);
                reasons.join(": ")
            }
            Some(Report::Ended { how, .. }) => format!("{how:?}"),
            None => "its process ended".to_owned(),
        };
        Err(failed(volume)(VolumeMachineError::Start { reason }))
    }

    fn shut_down(&mut self) -> Result<(), VolumeMachineError> {
        self.0.shutdown(Duration::ZERO);
        let how = match self.next_report()? {
            Some(Report::Ended { how, .. }) => Some(how),
            _ => None,
        };
        if how != Some(Ending::Clean) {
            return Err(VolumeMachineError::End { how });
        }
        // It removes its run directory, and lets go of the volume.
        self.0.wait()?;
        Ok(())
    }

    /// Waits for the next report; `None` at the end of the process.
    fn next_report(&mut self) -> Result<Option<Report>, VolumeMachineError> {
        loop {
            if let Some(report) = self.0.next_report()? {
                return Ok(Some(report));
            }
            if self.0.has_ended() {
                return Ok(None);
            }
            let mut descriptors = [PollFd::new(self.0.reports(), PollFlags::POLLIN)];
            match poll(&mut descriptors, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(io::Error::from(error).into()),
            }
        }
    }
}

/// The name of the machine: one for each volume, and no name that a user would choose.
fn name(volume: &VolumeHandle) -> Result<Name, NameError> {
    format!("volume-{}", volume.id().as_str()).parse()
}

fn acquire(volume: &VolumeHandle, name: &Name) -> Result<VolumeUse, VolumeError> {
    let wanted = NamedVolume {
        name: volume.name().clone(),
        mode: VolumeMode::Existing,
        read_only: false,
    };
    Volumes::open(volume.home())?.acquire(&wanted, name)
}

fn launch(
    volume: &VolumeHandle,
    name: Name,
    image: PathBuf,
    volume_use: VolumeUse,
) -> Result<MachineProcess, VolumeMachineError> {
    let home = volume.home();
    let program = Program::find(home)?;
    let disk = DiskImage {
        path: HostPath(image),
        format: disk::Format::Raw,
        cache: disk::Cache::Writeback,
        partition: None,
        fstype: volume.disk_fstype().map(str::to_owned),
    };
    let config = LaunchConfig {
        name: name.to_string(),
        vcpus: 1,
        memory: MEMORY,
        kernel: KERNEL.find(None, &program, home)?,
        initramfs: INITRAMFS.find(None, &program, home)?,
        extra_command_line: String::new(),
        // The volume itself would get directories for /proc and /dev.
        root: Root {
            source: RootSource::Memory,
            access: RootAccess::Writable,
        },
        mounts: vec![Mount {
            target: Bytes(DIRECTORY.as_bytes().to_vec()),
            source: MountSource::Disk(disk),
            options: MountOptions {
                no_exec: true,
                no_suid: true,
                no_dev: true,
                ..MountOptions::default()
            },
        }],
        allowed: Vec::new(),
        hostname: name.to_hostname(),
        boot_timeout_ms: BOOT_TIMEOUT_MS,
        log_level: "error".to_owned(),
        scripts: Vec::new(),
        patches: Vec::new(),
        restricted: false,
        init: None,
        lifetime: Lifetime::default(),
        main: None,
        state: None,
        log: None,
    };
    let claim = RunDirectory::claim(home, &name)?;
    Ok(MachineProcess::spawn(
        &program,
        name,
        claim,
        config,
        vec![volume_use],
        None,
    )?)
}

fn in_use(volume: &VolumeHandle) -> VolumeFsError {
    VolumeFsError::Unsupported {
        name: volume.name().to_string(),
    }
}

fn failed<E: Into<VolumeMachineError>>(
    volume: &VolumeHandle,
) -> impl FnOnce(E) -> VolumeFsError + use<E> {
    let name = volume.name().to_string();
    move |error| VolumeFsError::Machine {
        name,
        source: Box::new(error.into()),
    }
}
