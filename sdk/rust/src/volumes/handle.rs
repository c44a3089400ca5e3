//! A volume, as one finds it.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use super::directory::VolumeDirectory;
use super::error::failed;
use super::fs::VolumeFs;
use super::record::{Id, Record};
use super::{VolumeError, VolumeKind, VolumeName, Volumes, disk_image};
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

    /// Whether it holds nothing that somebody could miss: no file of a directory. A disk is written by one who uses it alone.
    ///
    /// # Errors
    /// When its directory cannot be read.
    pub(super) fn is_untouched(&self) -> Result<bool, VolumeError> {
        if self.kind() == VolumeKind::Disk {
            return Ok(true);
        }
        let path = self.path();
        let mut entries = fs::read_dir(&path).map_err(failed("read", &path))?;
        Ok(entries.next().is_none())
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
///
/// A volume that was made for this use is removed when the value is dropped without having been [kept](Self::keep), unless
/// somebody else uses it or has put files there.
#[derive(Debug)]
pub struct VolumeUse {
    volume: VolumeHandle,
    lock: File,
    created: bool,
    kept: bool,
}

impl VolumeUse {
    pub(super) fn new(volume: VolumeHandle, lock: File, created: bool) -> VolumeUse {
        VolumeUse {
            volume,
            lock,
            created,
            kept: !created,
        }
    }

    /// The volume.
    pub fn volume(&self) -> &VolumeHandle {
        &self.volume
    }

    /// Whether it was made for this use.
    pub fn created(&self) -> bool {
        self.created
    }

    /// Leaves the volume there, as one that has been in use by a sandbox that has started.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl AsFd for VolumeUse {
    /// The descriptor that stands for this use, for the process that goes on using the volume.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.lock.as_fd()
    }
}

impl Drop for VolumeUse {
    fn drop(&mut self) {
        if !self.kept {
            // What cannot be removed stays, a volume as any.
            let _ = Volumes::open(self.volume.home())
                .and_then(|volumes| volumes.unmake(&self.volume, &self.lock));
        }
    }
}
