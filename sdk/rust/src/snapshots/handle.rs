//! A snapshot, as one finds it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use image::Digest;

use super::descriptor::Snapshot;
use super::error::failed;
use super::{SnapshotError, SnapshotRoot, artifact};

/// A snapshot, as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct SnapshotHandle {
    pub(super) snapshot: Snapshot,
    path: PathBuf,
}

impl SnapshotHandle {
    pub(super) fn new(snapshot: Snapshot, path: PathBuf) -> SnapshotHandle {
        SnapshotHandle { snapshot, path }
    }

    /// What tells it from all others.
    pub fn id(&self) -> &str {
        self.snapshot.id.as_str()
    }

    /// Its name; one that is only at a path has none.
    pub fn name(&self) -> Option<&str> {
        self.snapshot.descriptor.name.as_deref()
    }

    /// As people call it: by its name, or its path.
    pub fn display_name(&self) -> String {
        match self.name() {
            Some(name) => name.to_owned(),
            None => self.path.display().to_string(),
        }
    }

    /// The directory with its files.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// When it was made.
    pub fn created_at(&self) -> SystemTime {
        self.snapshot.created_at()
    }

    /// The sandbox that it was made of.
    pub fn sandbox(&self) -> &str {
        &self.snapshot.descriptor.sandbox
    }

    /// What its user wanted to remember.
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.snapshot.descriptor.labels
    }

    /// What it is based on.
    pub fn root(&self) -> &SnapshotRoot {
        &self.snapshot.descriptor.root
    }

    /// Size of its layer in bytes: what sandboxes that are made of it can write at most.
    pub fn size_bytes(&self) -> u64 {
        self.snapshot.descriptor.upper.size_bytes
    }

    /// Size of its layer in MiB.
    pub fn size_mib(&self) -> u32 {
        self.snapshot.size_mib()
    }

    /// The SHA-256 over the data of its layer.
    pub fn digest(&self) -> &Digest {
        &self.snapshot.digest
    }

    /// Bytes that its layer takes up on the host. What it shares with others (reflinks) counts, too.
    ///
    /// # Errors
    /// When it is gone or cannot be looked at.
    pub fn used_bytes(&self) -> Result<u64, SnapshotError> {
        let path = self.path.join(artifact::UPPER);
        let metadata = fs::symlink_metadata(&path).map_err(failed("read", &path))?;
        Ok(metadata.blocks().saturating_mul(512))
    }

    /// Its layer, to be copied.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`] unless it is a file of the right size.
    pub(crate) fn open_upper(&self) -> Result<File, SnapshotError> {
        artifact::open_upper(&self.path, &self.snapshot)
    }

    /// The error that the image that it is based on is not here; none if it is based on a path.
    pub fn image_missing(&self) -> Option<SnapshotError> {
        let (reference, digest) = self.snapshot.image.clone()?;
        Some(SnapshotError::ImageMissing {
            snapshot: self.display_name(),
            reference,
            digest,
        })
    }
}
