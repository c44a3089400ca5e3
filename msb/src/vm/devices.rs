//! The devices of a sandbox's machine, and what its agent is told about them.

use std::os::unix::net::UnixListener;
use std::path::Path;

use microsandbox::launch::LaunchConfig;
use microsandbox::protocol::{Boot, CONTROL_PORT, Mount, MountSource, Root, SESSION_PORT};
use vmm::fs::{CachePolicy, FolderOptions, SharedFolder};
use vmm::virtio::vsock::{Accept, Route, VsockConfig, vsock_device};
use vmm::virtio::{DeviceDescription, fs_device, rng_device};

use super::start::StartError;

/// Address of the guest, the first that is free (vsock(7)). No two machines see each other's.
const GUEST_CID: u64 = 3;

/// Tag of the root file system.
const ROOT_TAG: &str = "root";

/// Makes the devices: entropy, the root file system, shared folders, connections.
///
/// # Errors
/// When a folder cannot be opened or a device cannot be made.
pub(super) fn make(
    config: &LaunchConfig,
    accept: Accept,
    listener: UnixListener,
) -> Result<Vec<DeviceDescription>, StartError> {
    let mut devices = vec![rng_device()];
    let root = &config.root;
    let cache = if root.writable {
        CachePolicy::AUTO
    } else {
        CachePolicy::ALWAYS
    };
    devices.push(folder(ROOT_TAG, &root.source, !root.writable, cache)?);
    for (index, volume) in config.folders.iter().enumerate() {
        let tag = folder_tag(index);
        devices.push(folder(
            &tag,
            &volume.source,
            volume.read_only,
            CachePolicy::AUTO,
        )?);
    }
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
            },
        ],
    })?);
    Ok(devices)
}

fn folder(
    tag: &str,
    path: &Path,
    read_only: bool,
    cache: CachePolicy,
) -> Result<DeviceDescription, StartError> {
    let options = FolderOptions {
        read_only,
        cache,
        ..FolderOptions::DEFAULT
    };
    let folder = SharedFolder::open(path, options)?;
    Ok(fs_device(tag, folder)?)
}

/// What the agent is told: the same folders by their tags.
pub(super) fn boot_message(config: &LaunchConfig) -> Boot {
    let tag = ROOT_TAG.to_owned();
    let folders = config
        .folders
        .iter()
        .enumerate()
        .map(|(index, folder)| Mount {
            target: folder.target.0.clone(),
            source: MountSource::Folder {
                tag: folder_tag(index),
            },
            read_only: folder.read_only,
        });
    let tmpfs = config.tmpfs.iter().map(|tmpfs| Mount {
        target: tmpfs.target.0.clone(),
        source: MountSource::Tmpfs { size: tmpfs.size },
        read_only: false,
    });
    Boot {
        root: if config.root.writable {
            Root::Direct { tag }
        } else {
            Root::Overlay { tag }
        },
        mounts: folders.chain(tmpfs).collect(),
        hostname: config.hostname.clone(),
    }
}

fn folder_tag(index: usize) -> String {
    format!("v{index}")
}
