//! The files of a volume, reached from the host.
//!
//! Those of a directory are reached while sandboxes may use them: the crate `files` resolves every path beneath it and
//! nowhere else. Those of a disk are reached through a small machine, which mounts it as long as one call lasts: the host's
//! kernel should not mount what a guest has written. There the guest's agent works with the same crate.

mod account;
mod error;
mod machine;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::path::{Path, PathBuf};

use files::{Files, FilesError, Room, used_bytes};

use account::Change;
pub use error::VolumeFsError;
pub use files::{EntryKind as FsEntryKind, FileEntry as FsEntry};
pub use machine::VolumeMachineError;

use super::handle::VolumeHandle;
use crate::disk_machine::{Remote, RemoteError};

/// The files of a volume. Paths are relative to its root; symbolic links are followed as long as they lead nowhere else.
///
/// Every method fails with [`VolumeFsError::PathEscape`] if a path is absolute or leads out of the volume.
///
/// If the volume is a disk, every call starts a machine, mounts the disk there, and ends the machine, after which what it
/// changed is durable. Meanwhile the disk is in use: no sandbox can have it, and no other call. While a sandbox has it,
/// calls fail with [`VolumeFsError::Unsupported`]; when the machine cannot do its work, or not within an hour, with
/// [`VolumeFsError::Machine`].
#[derive(Debug, Clone)]
pub struct VolumeFs {
    volume: VolumeHandle,
    root: PathBuf,
}

impl VolumeFs {
    pub(super) fn new(volume: VolumeHandle) -> VolumeFs {
        VolumeFs {
            root: volume.path(),
            volume,
        }
    }

    /// Path of the root on the host; of a disk, that of the directory with its image.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`], [`VolumeFsError::NotRegular`], [`VolumeFsError::TooLarge`] above 1 GiB.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, VolumeFsError> {
        let path = path.as_ref();
        self.reach(|files| files.read(path), |remote| remote.read(path))
    }

    /// Reads a file as text.
    ///
    /// # Errors
    /// As [`read`](Self::read); [`VolumeFsError::NotText`] if it is not UTF-8.
    pub fn read_string(&self, path: impl AsRef<Path>) -> Result<String, VolumeFsError> {
        let path = path.as_ref();
        String::from_utf8(self.read(path)?).map_err(|_| VolumeFsError::NotText {
            path: path.to_owned(),
        })
    }

    /// Writes a file, which is created with mode 0644 or truncated. Its directory must exist.
    ///
    /// In a volume with a quota no machine changes a file meanwhile, nor does another call of this kind.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`], [`VolumeFsError::NotRegular`]; [`VolumeFsError::QuotaExceeded`], for which
    /// everything in a volume with a quota is counted.
    pub fn write(
        &self,
        path: impl AsRef<Path>,
        contents: impl AsRef<[u8]>,
    ) -> Result<(), VolumeFsError> {
        let (path, contents) = (path.as_ref(), contents.as_ref());
        let room = |files: &Files| files.room_of_write(path, contents.len() as u64);
        let _change = self.begin_change(path, room)?;
        self.reach(
            |files| files.write(path, contents),
            |remote| remote.write(path, contents),
        )
    }

    /// Lists a directory, in the order of names, without `.` and `..`. Links are not followed.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`], [`VolumeFsError::TooLarge`] above a million entries.
    pub fn list(&self, path: impl AsRef<Path>) -> Result<Vec<FsEntry>, VolumeFsError> {
        let path = path.as_ref();
        self.reach(|files| files.list(path), |remote| remote.list(path))
    }

    /// Makes a directory and those above it that are missing, with mode 0755. That it exists is fine.
    ///
    /// # Errors
    /// `EEXIST` or `ENOTDIR` if something else is in the way; [`VolumeFsError::QuotaExceeded`].
    pub fn mkdir(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = path.as_ref();
        let _change = self.begin_change(path, |files| files.room_of_mkdir(path))?;
        self.reach(|files| files.mkdir(path), |remote| remote.mkdir(path))
    }

    /// Removes a file, a link or an empty directory.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; `ENOTEMPTY`.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = path.as_ref();
        self.reach(|files| files.remove(path), |remote| remote.remove(path))
    }

    /// Removes a file or a link.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; `EISDIR`.
    pub fn remove_file(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = path.as_ref();
        self.reach(
            |files| files.remove_file(path),
            |remote| remote.remove_file(path),
        )
    }

    /// Removes whatever is at a path, with everything beneath it. That nothing is there is fine.
    ///
    /// # Errors
    /// `ENOTEMPTY` when a guest keeps adding to it.
    pub fn remove_all(&self, path: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let path = path.as_ref();
        self.reach(
            |files| files.remove_all(path),
            |remote| remote.remove_all(path),
        )
    }

    /// Whether something is at a path. A link that leads to nothing does not count.
    ///
    /// # Errors
    /// When it cannot be told.
    pub fn exists(&self, path: impl AsRef<Path>) -> Result<bool, VolumeFsError> {
        match self.stat(path) {
            Ok(_) => Ok(true),
            Err(VolumeFsError::NotFound { .. }) => Ok(false),
            // A file stands where the path has a directory.
            Err(VolumeFsError::Io { source, .. })
                if source.raw_os_error() == Some(libc::ENOTDIR) =>
            {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Tells about what is at a path. A link is followed.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`].
    pub fn stat(&self, path: impl AsRef<Path>) -> Result<FsEntry, VolumeFsError> {
        let path = path.as_ref();
        self.reach(|files| files.stat(path), |remote| remote.stat(path))
    }

    /// Copies a file, a link or a directory with everything beneath it, with permissions, times and, for root, owners;
    /// links stay links and holes stay holes. A file replaces a file; a directory or a link must be new.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; `EEXIST`; [`VolumeFsError::NotRegular`] for FIFOs, devices and sockets;
    /// [`VolumeFsError::IntoItself`]; [`VolumeFsError::TooDeep`] above 128 directories within each other;
    /// [`VolumeFsError::QuotaExceeded`]. What was copied until then stays.
    pub fn copy(&self, from: impl AsRef<Path>, to: impl AsRef<Path>) -> Result<(), VolumeFsError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        let _change = self.begin_change(from, |files| files.room_of_copy(from, to))?;
        self.reach(|files| files.copy(from, to), |remote| remote.copy(from, to))
    }

    /// Gives a file, link or directory another name, and replaces what has that name as rename(2) does.
    ///
    /// # Errors
    /// [`VolumeFsError::NotFound`]; as rename(2).
    pub fn rename(
        &self,
        from: impl AsRef<Path>,
        to: impl AsRef<Path>,
    ) -> Result<(), VolumeFsError> {
        let (from, to) = (from.as_ref(), to.as_ref());
        self.reach(
            |files| files.rename(from, to),
            |remote| remote.rename(from, to),
        )
    }

    /// Does something with the files, which are here or on a disk.
    fn reach<T>(
        &self,
        here: impl FnOnce(&Files) -> Result<T, FilesError>,
        there: impl FnOnce(&mut Remote) -> Result<T, RemoteError>,
    ) -> Result<T, VolumeFsError> {
        match self.volume.disk_image() {
            None => Ok(here(&Files::open(&self.root)?)?),
            Some(image) => machine::work(&self.volume, image, there),
        }
    }

    /// Bytes that the volume may hold. A disk has none besides its size.
    fn quota(&self) -> Option<u64> {
        self.volume.quota_mib().map(|quota| u64::from(quota) << 20)
    }

    /// Makes sure that the volume has the room that a change at `path` takes, and counts it. Until the result is dropped
    /// no machine and nobody else on the host changes the files. Without a quota nothing of that is done.
    fn begin_change(
        &self,
        path: &Path,
        room: impl FnOnce(&Files) -> Result<Room, FilesError>,
    ) -> Result<Option<Change>, VolumeFsError> {
        let (Some(quota), Some(account)) = (self.quota(), self.volume.usage_ledger()) else {
            return Ok(None);
        };
        let files = Files::open(&self.root)?;
        let failed = |source| VolumeFsError::Io {
            action: "count",
            path: path.to_owned(),
            source,
        };
        let change = Change::begin(&account).map_err(failed)?;
        let room = room(&files)?;
        self.check_quota(quota, path, room, &change)?;
        let grown = room.needed.saturating_sub(room.given_up);
        change.add(grown).map_err(failed)?;
        Ok(Some(change))
    }

    /// Whether the volume has this room. What needs none is fine, even beyond the quota.
    fn check_quota(
        &self,
        quota: u64,
        path: &Path,
        room: Room,
        change: &Change,
    ) -> Result<(), VolumeFsError> {
        let Room { needed, given_up } = room;
        if needed == 0 {
            return Ok(());
        }
        let used = File::open(&self.root)
            .and_then(|directory| used_bytes(directory.into()))
            .and_then(|named| Ok(named.saturating_add(change.nameless()?)))
            .map_err(|source| VolumeFsError::Io {
                action: "count",
                path: path.to_owned(),
                source,
            })?;
        let left = quota.saturating_sub(used.saturating_sub(given_up));
        if needed > left {
            return Err(VolumeFsError::QuotaExceeded {
                path: path.to_owned(),
                needed,
                quota,
                left,
            });
        }
        Ok(())
    }
}
