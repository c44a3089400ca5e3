//! What the agent is told: the file systems of the machine, by tags, entries and serial numbers.

use microsandbox::launch::{DiskImage, LaunchConfig, MountSource, Patch, RootAccess, RootSource};
use microsandbox::protocol::{self, Boot, Disk, Root};

use super::devices::{ROOT, SHARE, UPPER, entry, patch_entry, serial};

/// The boot message for a machine with the devices of `config`.
pub(super) fn boot_message(config: &LaunchConfig) -> Boot {
    let source = match &config.root.source {
        RootSource::Folder(_) => protocol::RootSource::Shared {
            tag: ROOT.to_owned(),
        },
        RootSource::Disk(image) => protocol::RootSource::Disk(disk(ROOT.to_owned(), image)),
        RootSource::Memory => protocol::RootSource::Memory,
    };
    let mounts = config.mounts.iter().enumerate();
    Boot {
        root: Root {
            source,
            access: access(&config.root.access),
        },
        mounts: mounts
            .map(|(index, mount)| protocol::Mount {
                target: mount.target.0.clone(),
                source: mount_source(index, &mount.source),
                options: mount.options,
            })
            .collect(),
        hostname: config.hostname.clone(),
        scripts: config.scripts.clone(),
        restricted: config.restricted,
        init: config.init.clone(),
        patches: config.patches.iter().enumerate().map(patch).collect(),
    }
}

fn access(access: &RootAccess) -> protocol::RootAccess {
    match access {
        &RootAccess::Layer { size } => protocol::RootAccess::Layer { size },
        RootAccess::DiskLayer(image) => {
            protocol::RootAccess::DiskLayer(disk(UPPER.to_owned(), image))
        }
        RootAccess::Writable => protocol::RootAccess::Writable,
        RootAccess::ReadOnly => protocol::RootAccess::ReadOnly,
    }
}

fn mount_source(index: usize, source: &MountSource) -> protocol::MountSource {
    match source {
        MountSource::Folder { .. } | MountSource::File { .. } => protocol::MountSource::Shared {
            tag: SHARE.to_owned(),
            entry: Some(entry(index)),
        },
        MountSource::Disk(image) => protocol::MountSource::Disk(disk(serial(index), image)),
        &MountSource::Tmpfs { size, mode } => protocol::MountSource::Tmpfs { size, mode },
    }
}

fn patch((index, patch): (usize, &Patch)) -> protocol::Patch {
    match patch {
        Patch::Inline(patch) => patch.clone(),
        Patch::Copy {
            path,
            mode,
            replace,
            ..
        } => protocol::Patch::Copy {
            tag: SHARE.to_owned(),
            entry: patch_entry(index),
            path: path.clone(),
            mode: *mode,
            replace: *replace,
        },
        Patch::Append { path, .. } => protocol::Patch::AppendShared {
            tag: SHARE.to_owned(),
            entry: patch_entry(index),
            path: path.clone(),
        },
    }
}

fn disk(serial: String, image: &DiskImage) -> Disk {
    Disk {
        serial,
        partition: image.partition,
        fstype: image.fstype.clone(),
    }
}
