//! What was added in vain, and is removed again.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::prune::{Needed, remove};
use super::{Exclusive, Shared, StoreError, open_lock, sync_directory};
use crate::digest::Digest;

/// The files that were added through one [`Shared`].
#[derive(Debug, Clone, Default)]
pub struct Added(Arc<Mutex<Vec<PathBuf>>>);

impl Added {
    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.paths(|paths| paths.is_empty())
    }

    pub(super) fn note(&self, path: &Path) {
        self.paths(|paths| paths.push(path.to_owned()));
    }

    fn paths<T>(&self, work: impl FnOnce(&mut Vec<PathBuf>) -> T) -> T {
        // Whoever panicked had noted something or had not.
        let mut paths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut paths)
    }
}

impl Shared {
    /// Removes the parts that others had begun with of blobs that were added as a whole: for when it is certain that
    /// these stay.
    pub fn forget_parts(&self) {
        let blobs = self.store.blobs();
        let added = self.added.paths(|paths| paths.clone());
        let names = added
            .iter()
            .filter_map(|path| path.strip_prefix(&blobs).ok());
        for name in names {
            let part = self.store.partial().join(name);
            let lock = self.store.locks().join(format!("blob-{}", name.display()));
            // What cannot be removed, or is being written once more, the next prune removes.
            if part.exists()
                && let Ok(lock) = open_lock(&lock)
                && lock.try_lock().is_ok()
            {
                let _ = fs::remove_file(part);
            }
        }
    }
}

impl Exclusive {
    /// Removes what was added, except for what the images with these manifests need.
    ///
    /// # Errors
    /// When the manifest or the configuration of one of them cannot be read, as in [`prune`](Self::prune).
    pub fn take_back(&self, added: &Added, images: &[Digest]) -> Result<(), StoreError> {
        let paths = added.paths(std::mem::take);
        let needed = Needed::by(self, images)?;
        for path in &paths {
            if path.file_name().is_some_and(|name| !needed.has(name)) && remove(path)? {
                sync_directory(path.parent().unwrap_or(Path::new("/")))?;
            }
        }
        Ok(())
    }
}
