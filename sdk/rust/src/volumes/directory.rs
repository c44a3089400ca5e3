//! The directories of volumes: `$MSB_HOME/volumes/<name>/`, and how they come and go.
//!
//! ```text
//! volumes/.lock              held (flock(2)) while a volume comes, goes or is taken into use
//! volumes/.new-<identity>    a volume in the making
//! volumes/.trash-<identity>  a volume being removed
//! volumes/<name>/data/       the files of a directory
//! volumes/<name>/usage       the ledger of what they take up, kept by the machines that use it
//! volumes/<name>/disk.raw    the image of a disk
//! volumes/<name>/uses/       a file for each sandbox that uses it
//! ```
//! Who makes or removes a volume keeps its directory locked: one that nobody keeps is a left-over.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use files::remove_tree;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use super::error::failed;
use super::record::Id;
use super::{VolumeError, VolumeName};
use crate::home::Home;
use crate::private_directory::make_private_directory;

const LOCK: &str = ".lock";
const NEW: &str = ".new-";
const TRASH: &str = ".trash-";
const DATA: &str = "data";
const USAGE: &str = "usage";
const DISK: &str = "disk.raw";
const USES: &str = "uses";

/// `$MSB_HOME/volumes`.
#[derive(Debug)]
pub(super) struct VolumesDirectory {
    path: PathBuf,
}

/// Whoever has it is alone in changing what there is in the directory of the volumes.
#[derive(Debug)]
pub(super) struct Changes {
    _lock: File,
}

/// A directory that is kept locked by this process, because it is made or removed.
#[derive(Debug)]
pub(super) struct Kept {
    path: PathBuf,
    lock: File,
}

/// A directory that may be a left-over.
pub(super) enum Unfinished {
    /// Of the volume with this identity, in the making.
    New(Id, PathBuf),
    /// Of the volume with this identity, being removed.
    Trash(Id, PathBuf),
}

impl VolumesDirectory {
    /// Makes it if it is not there.
    ///
    /// # Errors
    /// When that fails, or others could change what is in it.
    pub(super) fn open(home: &Home) -> Result<VolumesDirectory, VolumeError> {
        let path = home.volumes();
        make_private_directory(&path)?;
        Ok(VolumesDirectory { path })
    }

    /// The directory of a volume.
    pub(super) fn of(&self, name: &VolumeName) -> VolumeDirectory {
        VolumeDirectory {
            path: self.path.join(name),
        }
    }

    /// Waits for its turn: nobody takes longer than a few system calls.
    ///
    /// # Errors
    /// When the file to be locked cannot be opened.
    pub(super) fn lock(&self) -> Result<Changes, VolumeError> {
        let path = self.path.join(LOCK);
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&path);
        let lock = open
            .and_then(|file| file.lock().map(|()| file))
            .map_err(failed("lock", &path))?;
        Ok(Changes { _lock: lock })
    }

    /// Begins to make a volume.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(super) fn begin(&self, id: &Id, _changes: &Changes) -> Result<Kept, VolumeError> {
        let path = self.path.join(format!("{NEW}{}", id.as_str()));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(failed("create", &path))?;
        match Kept::keep(path.clone()) {
            Ok(Some(kept)) => Ok(kept),
            Ok(None) => Err(failed("lock", &path)(io::ErrorKind::WouldBlock.into())),
            Err(error) => Err(failed("lock", &path)(error)),
        }
    }

    /// Gives a volume that is made the place of its name.
    ///
    /// # Errors
    /// `AlreadyExists` if something is there.
    pub(super) fn install(
        &self,
        kept: &mut Kept,
        name: &VolumeName,
        _: &Changes,
    ) -> io::Result<()> {
        self.rename(kept, self.of(name).path)?;
        // From here on others may remove it. Unlocked, and not only closed: a process that another thread is just
        // starting may have the descriptor, too.
        kept.lock.unlock()
    }

    /// Takes away the place of a volume.
    ///
    /// # Errors
    /// As rename(2), `NotFound` if there is nothing.
    pub(super) fn discard(&self, name: &VolumeName, id: &Id, _: &Changes) -> io::Result<Kept> {
        let path = self.of(name).path;
        let mut kept = Kept::keep(path)?.ok_or(io::ErrorKind::WouldBlock)?;
        self.rename(&mut kept, self.path.join(format!("{TRASH}{}", id.as_str())))?;
        Ok(kept)
    }

    /// Durable when it returns.
    fn rename(&self, kept: &mut Kept, to: PathBuf) -> io::Result<()> {
        let flags = RenameFlags::RENAME_NOREPLACE;
        renameat2(AT_FDCWD, &kept.path, AT_FDCWD, &to, flags)?;
        kept.path = to;
        self.sync()
    }

    /// Makes the entries durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    /// The directories that may be left-overs.
    ///
    /// # Errors
    /// As readdir(3).
    pub(super) fn unfinished(&self) -> Result<Vec<Unfinished>, VolumeError> {
        let mut unfinished = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(failed("read", &self.path))? {
            let entry = entry.map_err(failed("read", &self.path))?;
            let name = entry.file_name();
            let id = |prefix| Id::parse(name.to_str()?.strip_prefix(prefix)?);
            if let Some(id) = id(NEW) {
                unfinished.push(Unfinished::New(id, entry.path()));
            } else if let Some(id) = id(TRASH) {
                unfinished.push(Unfinished::Trash(id, entry.path()));
            }
        }
        Ok(unfinished)
    }
}

impl Kept {
    /// Locks the directory, unless somebody keeps it.
    ///
    /// # Errors
    /// As open(2) and flock(2).
    pub(super) fn keep(path: PathBuf) -> io::Result<Option<Kept>> {
        let lock = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_DIRECTORY | libc::O_NOFOLLOW)
            .open(&path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(Kept { path, lock })),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error),
        }
    }

    /// Where it is now.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// As the directory of a volume.
    pub(super) fn directory(&self) -> VolumeDirectory {
        VolumeDirectory {
            path: self.path.clone(),
        }
    }

    /// Makes its entries durable.
    ///
    /// # Errors
    /// As fsync(2).
    pub(super) fn sync(&self) -> io::Result<()> {
        self.lock.sync_all()
    }

    /// Removes it and all that is in it.
    ///
    /// # Errors
    /// As unlink(2).
    pub(super) fn remove(self) -> io::Result<()> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let name = std::ffi::CString::new(name.as_encoded_bytes())?;
        remove_tree(File::open(parent)?.as_fd(), &name)
    }
}

/// The directory of one volume.
#[derive(Debug, Clone)]
pub(super) struct VolumeDirectory {
    path: PathBuf,
}

impl VolumeDirectory {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn exists(&self) -> bool {
        self.path.symlink_metadata().is_ok()
    }

    pub(super) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    pub(super) fn usage(&self) -> PathBuf {
        self.path.join(USAGE)
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.path.join(DISK)
    }

    pub(super) fn uses(&self) -> PathBuf {
        self.path.join(USES)
    }

    /// Makes what the directory of any volume has.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(super) fn make_uses(&self) -> Result<(), VolumeError> {
        make_directory(&self.uses(), 0o700)
    }

    /// Makes the directory of the files: as `/` of a system is, because guests see it so.
    ///
    /// # Errors
    /// As mkdir(2).
    pub(super) fn make_data(&self) -> Result<(), VolumeError> {
        make_directory(&self.data(), 0o755)
    }
}

/// Durable but for its name.
fn make_directory(path: &Path, mode: u32) -> Result<(), VolumeError> {
    let made = DirBuilder::new().mode(mode).create(path);
    // The file mode creation mask may have taken bits away.
    made.and_then(|()| {
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    })
    .and_then(|()| File::open(path)?.sync_all())
    .map_err(failed("create", path))
}
