//! The devices of a sandbox's machine.

use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use disk::OpenOptions;
use microsandbox::launch::{
    self, DiskImage, HostPath, LaunchConfig, MountSource, Patch, RootAccess, RootSource,
    SharedCache, Sharing,
};
use microsandbox::protocol::{CONTROL_PORT, MountOptions, SESSION_PORT};
use vmm::fs::{CachePolicy, Exports, FolderOptions, Quota, SharedFolder};
use vmm::virtio::vsock::{Accept, Observer, Route, VsockConfig, vsock_device};
use vmm::virtio::{BlkConfig, DeviceDescription, blk_device, exports_device, fs_device};

use super::start::StartError;

/// Address of the guest, the first that is free (vsock(7)). No two machines see each other's.
const GUEST_CID: u64 = 3;

/// Tag or serial number of the root file system.
pub(super) const ROOT: &str = "root";

/// Serial number of the disk with the root's private layer.
pub(super) const UPPER: &str = "upper";

/// Most queues of all disks together, if each has one: every queue has two threads and an io_uring of its own.
const DISK_QUEUES: usize = 64;

/// Tag of the file system of which all shared folders and files are entries.
pub(super) const SHARE: &str = "share";

/// Name of the entry that mount `index` shows.
pub(super) fn entry(index: usize) -> String {
    index.to_string()
}

/// Name of the entry that patch `index` copies.
pub(super) fn patch_entry(index: usize) -> String {
    format!("patch-{index}")
}

/// Serial number of the disk that mount `index` shows.
pub(super) fn serial(index: usize) -> String {
    format!("disk-{index}")
}

/// Makes the devices: the root file system, what is mounted, connections.
///
/// # Errors
/// When a folder or a disk image cannot be opened, or a device cannot be made.
pub(super) fn make(
    config: &LaunchConfig,
    accept: Accept,
    listener: UnixListener,
    observer: Option<Box<dyn Observer>>,
) -> Result<Vec<DeviceDescription>, StartError> {
    let mut devices: Vec<_> = root(config)?.into_iter().collect();
    if let RootAccess::DiskLayer(image) = &config.root.access {
        devices.push(disk_device(config, image, UPPER.to_owned(), false)?);
    }
    devices.extend(mounts(config)?);
    devices.push(vsock_device(VsockConfig {
        guest_cid: GUEST_CID,
        routes: vec![
            Route::FromGuest {
                port: CONTROL_PORT,
                accept,
            },
            Route::ToGuest {
                listener,
                port: SESSION_PORT,
                observer,
            },
        ],
    })?);
    Ok(devices)
}

fn root(config: &LaunchConfig) -> Result<Option<DeviceDescription>, StartError> {
    let read_only = config.root.access != RootAccess::Writable;
    let device = match &config.root.source {
        RootSource::Folder(path) => {
            let options = FolderOptions {
                read_only,
                cache: if read_only {
                    CachePolicy::ALWAYS
                } else {
                    CachePolicy::AUTO
                },
                ..FolderOptions::DEFAULT
            };
            fs_device(ROOT, SharedFolder::open(&path.0, options)?)?
        }
        RootSource::Disk(image) => disk_device(config, image, ROOT.to_owned(), read_only)?,
        RootSource::Memory => return Ok(None),
    };
    Ok(Some(device))
}

fn mounts(config: &LaunchConfig) -> Result<Vec<DeviceDescription>, StartError> {
    let mut devices = Vec::new();
    let exports = Exports::new();
    let mut has_exports = false;
    for (index, mount) in config.mounts.iter().enumerate() {
        let shared = match &mount.source {
            MountSource::Folder { path, sharing } => {
                let folder = SharedFolder::open(&path.0, folder_options(mount.options, sharing))?;
                match &sharing.quota {
                    Some(limit) => folder.with_quota(&quota(limit))?,
                    None => folder,
                }
            }
            MountSource::File { path, sharing } => {
                SharedFolder::open_single_file(&path.0, folder_options(mount.options, sharing))?
            }
            MountSource::Disk(image) => {
                let read_only = mount.options.read_only;
                devices.push(disk_device(config, image, serial(index), read_only)?);
                continue;
            }
            MountSource::Tmpfs { .. } => continue,
        };
        exports.attach(&entry(index), shared)?;
        has_exports = true;
    }
    for (index, patch) in config.patches.iter().enumerate() {
        if let Patch::Copy { source, .. } | Patch::Append { source, .. } = patch {
            exports.attach(&patch_entry(index), original(&source.0)?)?;
            has_exports = true;
        }
    }
    if has_exports {
        devices.push(exports_device(SHARE, exports)?);
    }
    Ok(devices)
}

/// What is only to be copied.
fn original(path: &Path) -> Result<SharedFolder, StartError> {
    let options = FolderOptions {
        read_only: true,
        ..FolderOptions::DEFAULT
    };
    Ok(match path.is_dir() {
        true => SharedFolder::open(path, options)?,
        false => SharedFolder::open_single_file(path, options)?,
    })
}

fn folder_options(options: MountOptions, sharing: &Sharing) -> FolderOptions {
    FolderOptions {
        read_only: options.read_only,
        no_exec: options.no_exec,
        no_suid: options.no_suid,
        no_dev: options.no_dev,
        cache: cache_policy(sharing),
    }
}

fn cache_policy(sharing: &Sharing) -> CachePolicy {
    let timeout = sharing.cache_timeout_ms.map(Duration::from_millis);
    match (sharing.cache, timeout) {
        (SharedCache::None, _) => CachePolicy::None,
        (SharedCache::Auto, None) => CachePolicy::AUTO,
        (SharedCache::Auto, Some(timeout)) => CachePolicy::Auto { timeout },
        (SharedCache::Always, None) => CachePolicy::ALWAYS,
        (SharedCache::Always, Some(timeout)) => CachePolicy::Always { timeout },
    }
}

fn quota(quota: &launch::Quota) -> Quota {
    Quota {
        limit: quota.limit,
        ledger: quota.ledger.as_ref().map(|HostPath(path)| path.clone()),
    }
}

/// A queue for each processor, as long as there are not too many of all disks.
fn queues_per_disk(vcpus: u8, disks: usize) -> u16 {
    let most = DISK_QUEUES.checked_div(disks).unwrap_or(DISK_QUEUES);
    let most = u16::try_from(most).unwrap_or(BlkConfig::MAX_QUEUES);
    u16::from(vcpus).min(most).max(1)
}

/// The disks of a machine.
fn disks(config: &LaunchConfig) -> usize {
    let has_root = matches!(config.root.source, RootSource::Disk(_));
    let has_layer = matches!(config.root.access, RootAccess::DiskLayer(_));
    let mounts = config.mounts.iter();
    let mounted = mounts.filter(|mount| matches!(mount.source, MountSource::Disk(_)));
    usize::from(has_root) + usize::from(has_layer) + mounted.count()
}

fn disk_device(
    config: &LaunchConfig,
    image: &DiskImage,
    serial: String,
    read_only: bool,
) -> Result<DeviceDescription, StartError> {
    let options = OpenOptions {
        format: image.format,
        read_only,
        cache: image.cache,
        allowed: config
            .allowed
            .iter()
            .map(|HostPath(path)| path.clone())
            .collect(),
    };
    let opened = disk::open(&image.path.0, &options)?;
    let (device, _) = blk_device(BlkConfig {
        image: Some(Arc::from(opened)),
        read_only,
        serial,
        queues: queues_per_disk(config.vcpus, disks(config)),
    })?;
    Ok(device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_disks_have_fewer_queues_than_there_are_processors() {
        for (vcpus, disks, queues) in [
            (1, 1, 1),
            (32, 1, 32),
            (32, 2, 32),
            (32, 3, 21),
            (4, 16, 4),
            (32, 64, 1),
            (32, 66, 1),
            (1, 66, 1),
        ] {
            assert_eq!(queues_per_disk(vcpus, disks), queues, "{vcpus}, {disks}");
        }
    }
}
