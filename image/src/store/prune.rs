//! Removes what no image needs.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::error::failed;
use super::root::merged_files;
use super::{Added, Shared, Store, StoreError, open_lock, sync_directory};
use crate::digest::Digest;

/// The store, which nobody else uses while this lives.
#[derive(Debug)]
pub struct Exclusive {
    store: Shared,
}

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many blobs, some of them incomplete.
    pub blobs: u64,
    /// How many file systems of layers.
    pub layers: u64,
    /// Bytes of the host's disk that they took up.
    pub bytes: u64,
}

impl Store {
    /// Waits until nobody uses the store, and keeps others from it until the returned value is dropped.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn exclude(&self) -> Result<Exclusive, StoreError> {
        let path = self.root.join("lock");
        let lock = open_lock(&path)?;
        lock.lock().map_err(failed("lock", &path))?;
        Ok(self.excluded(lock))
    }

    /// As [`exclude`](Self::exclude), but does not wait: returns `None` if somebody uses the store.
    ///
    /// # Errors
    /// When the lock cannot be had for another reason.
    pub fn try_exclude(&self) -> Result<Option<Exclusive>, StoreError> {
        let path = self.root.join("lock");
        let lock = open_lock(&path)?;
        match lock.try_lock() {
            Ok(()) => Ok(Some(self.excluded(lock))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(failed("lock", &path)(error)),
        }
    }

    fn excluded(&self, lock: File) -> Exclusive {
        Exclusive {
            store: Shared {
                store: self.clone(),
                renewing: false,
                added: Added::default(),
                _lock: lock,
            },
        }
    }
}

impl Exclusive {
    /// Removes all that the images with these manifests do not need; of what somebody began to download, nothing
    /// if `partial` is false.
    ///
    /// # Errors
    /// When the manifest or the configuration of one of them cannot be read: what it needs cannot be told then, and
    /// nothing is removed.
    pub fn prune(&self, images: &[Digest], partial: bool) -> Result<Pruned, StoreError> {
        let needed = Needed::by(self, images)?;
        let store = &self.store.store;
        let mut pruned = Pruned::default();
        let nothing = Needed::default();
        let mut bytes = 0;
        pruned.layers += sweep(&store.layers(), &needed, &mut bytes)?;
        pruned.layers += sweep(&store.staging(), &nothing, &mut bytes)?;
        pruned.blobs += sweep(&store.blobs(), &needed, &mut bytes)?;
        if partial {
            pruned.blobs += sweep(&store.partial(), &nothing, &mut bytes)?;
        }
        pruned.bytes = bytes;
        sweep(&store.locks(), &nothing, &mut 0)?;
        Ok(pruned)
    }
}

/// Names of the files that images consist of: a blob is called otherwise than a file system.
#[derive(Debug, Default)]
pub(super) struct Needed(HashSet<OsString>);

impl Needed {
    /// What the images with these manifests need.
    ///
    /// # Errors
    /// When the manifest or the configuration of one of them cannot be read.
    pub(super) fn by(store: &Exclusive, images: &[Digest]) -> Result<Needed, StoreError> {
        let mut names = HashSet::new();
        for image in images {
            let manifest = store.store.manifest(image)?;
            let config = store.store.config(&manifest)?;
            names.insert(OsString::from(image.hex()));
            names.insert(manifest.config.digest.hex().into());
            for layer in &manifest.layers {
                names.insert(layer.descriptor.digest.hex().into());
            }
            for diff_id in &config.diff_ids {
                names.insert(Store::layer_name(diff_id).into());
            }
            names.extend(merged_files(&config.diff_ids).map(OsString::from));
        }
        Ok(Needed(names))
    }

    pub(super) fn has(&self, name: &OsStr) -> bool {
        self.0.contains(name)
    }
}

/// Removes a file, and returns whether it was there.
///
/// # Errors
/// As unlink(2).
pub(super) fn remove(path: &Path) -> Result<bool, StoreError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove", path)(error)),
    }
}

/// Removes the files of a directory that are not needed, and returns how many.
fn sweep(directory: &Path, needed: &Needed, bytes: &mut u64) -> Result<u64, StoreError> {
    let mut removed = 0;
    let entries = fs::read_dir(directory).map_err(failed("read", directory))?;
    for entry in entries {
        let entry = entry.map_err(failed("read", directory))?;
        if needed.has(&entry.file_name()) {
            continue;
        }
        let path = entry.path();
        let metadata = entry.metadata().map_err(failed("examine", &path))?;
        if !remove(&path)? {
            continue;
        }
        removed += 1;
        *bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
    }
    if removed > 0 {
        sync_directory(directory)?;
    }
    Ok(removed)
}
