//! An image, as one finds it.

use std::time::SystemTime;

use image::{Digest, ImageConfig, Manifest, Reference};

use super::record::Record;

/// An image, as it was when it was looked up.
#[derive(Debug, Clone)]
pub struct ImageHandle {
    record: Record,
}

impl ImageHandle {
    pub(super) fn new(record: Record) -> ImageHandle {
        ImageHandle { record }
    }

    /// Its names.
    pub fn references(&self) -> &[Reference] {
        &self.record.references
    }

    /// Digest of its manifest: what it is.
    pub fn digest(&self) -> &Digest {
        &self.record.manifest
    }

    /// Digest of its configuration: what Docker calls the image's ID.
    pub fn config_digest(&self) -> &Digest {
        &self.record.config
    }

    /// Bytes of its layers, as guests mount them. Layers that other images have, too, are there once.
    pub fn size_bytes(&self) -> u64 {
        self.record.size_bytes
    }

    /// When it came here.
    pub fn created_at(&self) -> SystemTime {
        self.record.created_at
    }

    /// As people call it: the first of its names, or the digest if it has none.
    pub fn display_name(&self) -> String {
        match self.record.references.first() {
            Some(reference) => reference.familiar_tagged(),
            None => self.record.manifest.to_string(),
        }
    }
}

/// All that is known of an image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The image.
    pub image: ImageHandle,
    /// What it consists of.
    pub manifest: Manifest,
    /// How it is run, and how it was made.
    pub config: ImageConfig,
    /// The names of the sandboxes that were made of it.
    pub sandboxes: Vec<String>,
    /// The names of the snapshots that are based on it.
    pub snapshots: Vec<String>,
}
