//! A volume, as one finds it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::directory::VolumeDirectory;
use super::error::failed;
use super::fs::VolumeFs;
use super::record::{Id, Record};
use super::{VolumeError, VolumeKind, VolumeName, disk_image};
use crate::home::Home;

/// A volume, as it was when it was looked up. What it says about used room is of the moment of the call.
#[derive(Debug, Clone)]
pub struct VolumeHandle {
    record: Record,
    directory: VolumeDirectory,
    /// Whose volume it is.
    home: Home,
}

impl VolumeHandle {
    pub(super) fn new(record: Record, directory: VolumeDirectory, home: Home) -> VolumeHandle {
        VolumeHandle {
            record,
            directory,
            home,
        }
    }

    /// Its name.
    pub fn name(&self) -> &VolumeName {
        &self.record.name
    }

    /// How it keeps its files.
    pub fn kind(&self) -> VolumeKind {
        self.record.kind
    }

    /// Where it is: the directory with its files, or the one with its disk.
    pub fn path(&self) -> PathBuf {
        match self.kind() {
            VolumeKind::Dir => self.directory.data(),
            VolumeKind::Disk => self.directory.path().to_owned(),
        }
    }

    /// The image of its disk, if it is one.
    pub fn disk_image(&self) -> Option<PathBuf> {
        (self.kind() == VolumeKind::Disk).then(|| self.directory.disk())
    }

    /// Where the machines that use it keep account of what its files take up, if it is a directory. The file may not
    /// exist.
    pub fn usage_ledger(&self) -> Option<PathBuf> {
        (self.kind() == VolumeKind::Dir).then(|| self.directory.usage())
    }

    /// Most that its files may take up, in MiB.
    pub fn quota_mib(&self) -> Option<u32> {
        self.record.quota_mib
    }

    pub(super) fn home(&self) -> &Home {
        &self.home
    }

    pub(super) fn id(&self) -> &Id {
        &self.record.id
    }

    pub(super) fn size_mib(&self) -> Option<u32> {
        self.record.size_mib
    }

    /// Size of its disk in bytes, if it is one.
    pub fn capacity_bytes(&self) -> Option<u64> {
        self.record.size_mib.map(|size| u64::from(size) << 20)
    }

    /// Format of the image of its disk, if it is one: `raw`.
    pub fn disk_format(&self) -> Option<&'static str> {
        (self.kind() == VolumeKind::Disk).then_some("raw")
    }

    /// File system on its disk, if it is one: `ext4`.
    pub fn disk_fstype(&self) -> Option<&'static str> {
        (self.kind() == VolumeKind::Disk).then_some("ext4")
    }

    /// What its user wanted to remember.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.record.labels
    }

    /// When it was made.
    pub fn created_at(&self) -> SystemTime {
        self.record.created_at
    }

    /// Bytes that it takes up on the host now: its files as du(1) counts them, or what of its disk is allocated.
    ///
    /// # Errors
    /// [`VolumeError::DirectoryMissing`] if it is gone; when it cannot be read.
    pub fn used_bytes(&self) -> Result<u64, VolumeError> {
        let path = self.disk_image().unwrap_or_else(|| self.path());
        let used = match self.kind() {
            VolumeKind::Dir => OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
                .open(&path)
                .and_then(|directory| files::used_bytes(directory.into())),
            VolumeKind::Disk => disk_image::allocated(&path),
        };
        used.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => self.missing(),
            _ => failed("examine", &path)(error),
        })
    }

    /// Its files, to be reached from the host; those of a disk while no sandbox uses it.
    pub fn fs(&self) -> VolumeFs {
        VolumeFs::new(self.clone())
    }

    /// The error that its directory is gone.
    pub(super) fn missing(&self) -> VolumeError {
        VolumeError::DirectoryMissing {
            name: self.name().to_string(),
            path: self.directory.path().to_owned(),
        }
    }
}

/// A volume in use. It cannot be removed, and if it is a disk that this use may write, nobody else can use it, until the last
/// descriptor of this use is closed: dropping this value closes one, and a process that inherited another, as that of the
/// machine should, goes on using the volume.
#[derive(Debug)]
pub struct VolumeUse {
    pub(super) volume: VolumeHandle,
    pub(super) created: bool,
    pub(super) lock: OwnedFd,
}

impl VolumeUse {
    /// The volume.
    pub fn volume(&self) -> &VolumeHandle {
        &self.volume
    }

    /// Whether it was made for this use.
    pub fn created(&self) -> bool {
        self.created
    }

    /// The descriptor that stands for this use, for the process that goes on using the volume.
    pub fn into_descriptor(self) -> OwnedFd {
        self.lock
    }
}

impl AsFd for VolumeUse {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}
