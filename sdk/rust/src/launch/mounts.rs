//! The file systems that a guest sees.

use protocol::{Bytes, MountOptions};
use serde::{Deserialize, Serialize};

use super::HostPath;

/// The root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Where it comes from.
    pub source: RootSource,
    /// What becomes of changes.
    pub access: RootAccess,
}

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootSource {
    /// A folder of the host.
    Folder(HostPath),
    /// A disk image.
    Disk(DiskImage),
    /// Guest memory, empty at first.
    Memory,
}

/// What becomes of changes to the root file system.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RootAccess {
    /// They are kept in a layer in guest memory, and gone with the machine.
    Layer {
        /// Limit of the layer in bytes; `None` is half of the memory.
        size: Option<u64>,
    },
    /// They are kept in a layer on this disk, where the next machine finds them.
    DiskLayer(DiskImage),
    /// They are written through.
    Writable,
    /// There are none.
    ReadOnly,
}

/// A mount beneath the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path in the guest; created when it does not exist.
    pub target: Bytes,
    /// What is mounted there.
    pub source: MountSource,
    /// What is forbidden there. For what comes from the host, the host enforces it.
    pub options: MountOptions,
}

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum MountSource {
    /// A folder of the host.
    Folder {
        /// The folder.
        path: HostPath,
        /// How it is shared.
        sharing: Sharing,
    },
    /// A single file of the host.
    File {
        /// The file.
        path: HostPath,
        /// How it is shared.
        sharing: Sharing,
    },
    /// A file system on a disk image.
    Disk(DiskImage),
    /// Guest memory.
    Tmpfs {
        /// Limit in bytes; `None` is half of the guest's memory.
        size: Option<u64>,
        /// Permission bits of its root directory.
        mode: u32,
    },
}

/// How a folder or a file of the host is shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sharing {
    /// Whether the guest looks for changes of others.
    pub cache: SharedCache,
    /// How long the guest may miss such a change, in milliseconds, if it is not as `cache` says.
    pub cache_timeout_ms: Option<u64>,
    /// Limit of what a folder may use on the host's disk.
    pub quota: Option<Quota>,
}

/// How much a folder may use on the host's disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quota {
    /// Most bytes that everything in the folder may take up, as du(1) counts.
    pub limit: u64,
    /// The file in which several machines that share the folder count them.
    pub ledger: Option<HostPath>,
}

/// Whether the guest looks for changes that others make in what is shared with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SharedCache {
    /// Each time.
    None,
    /// When it opens a file, and after a second.
    #[default]
    Auto,
    /// After a day: nobody else changes it.
    Always,
}

/// A disk image, and what is mounted of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskImage {
    /// The image file, or a block device.
    pub path: HostPath,
    /// Its format. It is never guessed from what it holds.
    pub format: disk::Format,
    /// When a write of the guest is durable.
    pub cache: disk::Cache,
    /// Number of the partition; `None` is the only one with a Linux file system, or a disk without partitions.
    pub partition: Option<u32>,
    /// Type of the file system as mount(8) takes it; `None` is what its superblock says.
    pub fstype: Option<String>,
}

/// Of several mounts with one target only the last, in the order in which they were given.
#[must_use]
pub fn last_of_each_target(mounts: Vec<Mount>) -> Vec<Mount> {
    let mut kept: Vec<Mount> = Vec::with_capacity(mounts.len());
    for mount in mounts {
        kept.retain(|earlier| earlier.target != mount.target);
        kept.push(mount);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tmpfs(target: &str, size: u64) -> Mount {
        Mount {
            target: Bytes(target.into()),
            source: MountSource::Tmpfs {
                size: Some(size),
                mode: 0o755,
            },
            options: MountOptions::default(),
        }
    }

    #[test]
    fn a_later_mount_takes_the_place_of_an_earlier_one() {
        let mounts = vec![tmpfs("/a", 1), tmpfs("/b", 2), tmpfs("/a", 3)];
        let expected = [tmpfs("/b", 2), tmpfs("/a", 3)];
        assert_eq!(last_of_each_target(mounts), expected);
    }
}
