//! Images that somebody makes something of, and nobody has recorded yet.

use std::fs::File;
use std::io;

use super::{Shared, StoreError, lock_by};
use crate::digest::Digest;

/// A lock on one image: shared by those who are about to record something that is made of it, and had alone by
/// who forgets it. Those who share the store for another reason, a long download perhaps, keep nobody waiting here.
#[derive(Debug)]
pub struct ImageLock {
    _lock: File,
}

impl Shared {
    /// Sees to it that nobody forgets the image with this manifest until the returned value is dropped. Who wants to know
    /// that the image is there looks for it afterwards. Waits for somebody who forgets it just now.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn use_image(&self, manifest: &Digest) -> Result<ImageLock, StoreError> {
        self.lock_image(manifest, File::lock_shared)
    }

    /// Waits until nobody [uses](Self::use_image) the image with this manifest, and keeps others from it until the returned
    /// value is dropped.
    ///
    /// # Errors
    /// When the lock cannot be had.
    pub fn exclude_image(&self, manifest: &Digest) -> Result<ImageLock, StoreError> {
        self.lock_image(manifest, File::lock)
    }

    fn lock_image(
        &self,
        manifest: &Digest,
        how: fn(&File) -> io::Result<()>,
    ) -> Result<ImageLock, StoreError> {
        let name = format!("image-{}", manifest.hex());
        let lock = lock_by(&self.store, &name, how)?;
        Ok(ImageLock { _lock: lock })
    }
}
