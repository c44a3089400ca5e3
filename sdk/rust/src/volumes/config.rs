//! What a volume is to be like.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use super::{VolumeError, VolumeName};

/// How a volume keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum VolumeKind {
    /// In a directory of the host, which any number of sandboxes share.
    #[default]
    Dir,
    /// On a disk of its own, an image file with a file system, which one sandbox at a time can write.
    Disk,
}

/// A text is the name of no kind.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("The kind {name:?} is unknown: it is dir or disk")]
pub struct UnknownKind {
    /// What was given.
    pub name: String,
}

impl VolumeKind {
    /// Its name: `dir` or `disk`.
    pub fn name(self) -> &'static str {
        match self {
            VolumeKind::Dir => "dir",
            VolumeKind::Disk => "disk",
        }
    }
}

impl fmt::Display for VolumeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for VolumeKind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<VolumeKind, UnknownKind> {
        match name {
            "dir" => Ok(VolumeKind::Dir),
            "disk" => Ok(VolumeKind::Disk),
            _ => Err(UnknownKind {
                name: name.to_owned(),
            }),
        }
    }
}

/// Size of the smallest disk: in less, mke2fs(8) makes no journal, and a crash could damage the file system.
const MIN_DISK_MIB: u32 = 8;

/// What a new volume is to be like.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct VolumeConfig {
    /// How it keeps its files.
    pub kind: VolumeKind,
    /// Most that its files may take up, in MiB; for directories. None and 0 are no limit.
    pub quota_mib: Option<u32>,
    /// Size of its disk in MiB, 8 at least; for disks, which need one.
    pub size_mib: Option<u32>,
    /// Whatever its user wants to remember.
    pub labels: BTreeMap<String, String>,
}

impl VolumeConfig {
    /// The quota, if there is one.
    pub(super) fn quota(&self) -> Option<u32> {
        self.quota_mib.filter(|&quota| quota > 0)
    }

    /// The size of the disk, if one was given.
    pub(super) fn size(&self) -> Option<u32> {
        self.size_mib.filter(|&size| size > 0)
    }

    /// Whether the fields fit together; the size of a disk may still be missing.
    ///
    /// # Errors
    /// [`VolumeError::InvalidConfig`].
    pub(super) fn check(&self) -> Result<(), VolumeError> {
        let reason = match self.kind {
            VolumeKind::Dir if self.size().is_some() => {
                "a directory has no size; limit it with a quota"
            }
            VolumeKind::Disk if self.quota().is_some() => {
                "a disk has no quota; its size is the limit"
            }
            VolumeKind::Disk if self.size().is_some_and(|size| size < MIN_DISK_MIB) => {
                "a disk has 8 MiB at least, for the journal of its file system"
            }
            _ if self.labels.keys().any(String::is_empty) => "the name of a label is empty",
            _ => return Ok(()),
        };
        Err(VolumeError::InvalidConfig { reason })
    }
}

/// What a sandbox asks for when it mounts a named volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedVolume {
    /// The volume.
    pub name: VolumeName,
    /// What if it exists, and what if not.
    pub mode: VolumeMode,
    /// The sandbox will only read it. Any number of sandboxes may read a disk at a time.
    pub read_only: bool,
}

/// What if a named volume exists, and what if not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeMode {
    /// It must exist, of whatever kind.
    Existing,
    /// It must not exist, and is made.
    Create(VolumeConfig),
    /// It is made if it does not exist; if it does, its kind and quota must be these, where no quota is one, too, and its
    /// size the one that is given, if one is. Its labels are not looked at. It is never changed.
    EnsureExists(VolumeConfig),
}
