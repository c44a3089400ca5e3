//! A layer that is made here: what its blob and its archive are called is known when it is complete.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use flate2::write::GzEncoder;

use super::error::failed;
use super::{Shared, StoreError, lock, publish};
use crate::digest::{Digest, Hasher};
use crate::layer::Compression;
use crate::manifest::{Descriptor, Layer};

/// Takes the bytes of a tar archive in their order, and compresses them. Dropping it leaves nothing.
pub struct NewLayer<'s> {
    store: &'s Shared,
    encoder: GzEncoder<Blob>,
    hasher: Hasher,
    written: u64,
    limit: u64,
}

impl std::fmt::Debug for NewLayer<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("NewLayer")
            .field("written", &self.written)
            .field("limit", &self.limit)
            .finish_non_exhaustive()
    }
}

/// The compressed archive in a file that nobody else knows.
struct Blob {
    file: File,
    hasher: Hasher,
    size: u64,
    /// `None` when it has another name.
    path: Option<PathBuf>,
}

impl Shared {
    /// Begins a layer whose archive has at most `limit` bytes.
    ///
    /// # Errors
    /// When its file cannot be made.
    pub fn new_layer(&self, limit: u64) -> Result<NewLayer<'_>, StoreError> {
        let (path, file) = self.stage("layer")?;
        let blob = Blob {
            file,
            hasher: Hasher::new(),
            size: 0,
            path: Some(path),
        };
        Ok(NewLayer {
            store: self,
            encoder: GzEncoder::new(blob, flate2::Compression::default()),
            hasher: Hasher::new(),
            written: 0,
            limit,
        })
    }
}

impl NewLayer<'_> {
    /// Adds bytes.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`]; as write(2).
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.written = self.written.saturating_add(bytes.len() as u64);
        if self.written > self.limit {
            return Err(StoreError::TooLarge { limit: self.limit });
        }
        self.hasher.update(bytes);
        let written = self.encoder.write_all(bytes);
        written.map_err(|error| self.encoder.get_ref().failed(error))
    }

    /// Bytes of the archive so far.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Adds the layer to the store, durably, as a blob of this type; returns it with the digest of its archive.
    ///
    /// # Errors
    /// As write(2).
    pub fn finish(mut self, media_type: &str) -> Result<(Layer, Digest), StoreError> {
        let finished = self.encoder.try_finish();
        finished.map_err(|error| self.encoder.get_ref().failed(error))?;
        let blob = self.encoder.get_mut();
        let digest = std::mem::take(&mut blob.hasher).finish();
        let layer = Layer {
            descriptor: Descriptor::new(digest, blob.size, media_type),
            compression: Compression::Gzip,
        };
        let target = self.store.store.blob(&digest);
        let _lock = lock(&self.store.store, &format!("blob-{}", digest.hex()))?;
        if !target.exists()
            && let Some(path) = &blob.path
        {
            publish(&blob.file, path, &target, &self.store.added)?;
            blob.path = None;
        }
        Ok((layer, self.hasher.finish()))
    }
}

impl Blob {
    fn failed(&self, error: io::Error) -> StoreError {
        failed("write", self.path.as_deref().unwrap_or("".as_ref()))(error)
    }
}

impl Write for Blob {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        self.size = self.size.saturating_add(count as u64);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Blob {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // What cannot be removed, the next prune removes.
            let _ = fs::remove_file(path);
        }
    }
}
