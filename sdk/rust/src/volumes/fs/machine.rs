//! The machine that mounts the disk of a volume for one call.

use std::path::PathBuf;

use super::VolumeFsError;
use crate::disk_machine::{DiskMachine, DiskMachineError, MountedDisk, Remote, RemoteError};
use crate::launch::{DiskImage, HostPath};
use crate::names::{Name, NameError};
use crate::volumes::{
    NamedVolume, VolumeError, VolumeHandle, VolumeMode, VolumeUse, Volumes, disk_image,
};

/// Where the disk is mounted in the guest.
const DIRECTORY: &str = "/volume";

/// The machine that reaches the files of a disk failed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeMachineError {
    /// The volume cannot be taken into use.
    #[error("The volume cannot be taken into use")]
    Volume(#[from] VolumeError),
    /// The machine cannot do its work.
    #[error(transparent)]
    Machine(#[from] DiskMachineError),
}

/// Does `work` with the files on the disk of `volume`, which is in use meanwhile. What was changed is durable then.
///
/// # Errors
/// Those of `work`; [`VolumeFsError::Unsupported`] if the disk is in use already; [`VolumeFsError::Machine`].
pub(super) fn work<T>(
    volume: &VolumeHandle,
    image: PathBuf,
    work: impl FnOnce(&mut Remote) -> Result<T, RemoteError>,
) -> Result<T, VolumeFsError> {
    // A sandbox may have it by its path.
    if disk_image::is_open(&image) {
        return Err(in_use(volume));
    }
    let machine = start(volume, image)?;
    let stream = machine.connect().map_err(failed(volume))?;
    match machine.work(stream, DIRECTORY, work) {
        Ok(result) => Ok(result),
        Err(RemoteError::Files(error)) => Err(error.into()),
        Err(RemoteError::Agent(error)) => Err(failed(volume)(DiskMachineError::Agent(error))),
        Err(RemoteError::Machine(error)) => Err(failed(volume)(error)),
    }
}

fn start(volume: &VolumeHandle, image: PathBuf) -> Result<DiskMachine, VolumeFsError> {
    let name = name(volume).map_err(|error| failed(volume)(DiskMachineError::from(error)))?;
    let volume_use = match acquire(volume, &name) {
        Err(VolumeError::VolumeInUse { .. }) => return Err(in_use(volume)),
        result => result.map_err(failed(volume))?,
    };
    let disk = MountedDisk {
        disk: DiskImage {
            path: HostPath(image),
            format: disk::Format::Raw,
            cache: disk::Cache::Writeback,
            partition: None,
            fstype: volume.disk_fstype().map(str::to_owned),
        },
        directory: DIRECTORY,
        read_only: false,
    };
    match DiskMachine::start(volume.home(), name, vec![disk], vec![volume_use]) {
        // Somebody was faster.
        Err(DiskMachineError::InUse) => Err(in_use(volume)),
        result => result.map_err(failed(volume)),
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
