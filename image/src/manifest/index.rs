//! Images of several platforms under one name (image specification, `image-index.md`).

use super::{Descriptor, ManifestError, Platform, json, media_type};

/// Most entries of an index.
pub const MAX_INDEX_ENTRIES: usize = 4096;

/// An index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The entries: manifests, further indices, and things that are no images.
    pub manifests: Vec<Descriptor>,
}

impl Index {
    pub(super) fn new(manifests: Vec<Descriptor>) -> Result<Index, ManifestError> {
        json::check_count("entries in its index", manifests.len(), MAX_INDEX_ENTRIES)?;
        Ok(Index { manifests })
    }

    /// The entry for linux/amd64: one that any such processor runs if there is one, and one that does not say for what it
    /// is only if it is the only one.
    ///
    /// # Errors
    /// [`ManifestError::NoPlatform`], with what there is.
    pub fn choose(&self) -> Result<&Descriptor, ManifestError> {
        let is_image = |entry: &&Descriptor| {
            media_type::is_manifest(&entry.media_type) || media_type::is_index(&entry.media_type)
        };
        let images = || self.manifests.iter().filter(is_image);
        let ours =
            || images().filter(|entry| entry.platform.as_ref().is_some_and(Platform::is_ours));
        if let Some(entry) = ours()
            .find(|entry| is_baseline(entry))
            .or_else(|| ours().next())
        {
            return Ok(entry);
        }
        let mut unnamed = images().filter(|entry| entry.platform.is_none());
        if let (Some(entry), None) = (unnamed.next(), unnamed.next()) {
            return Ok(entry);
        }
        let platforms = images().filter_map(|entry| entry.platform.as_ref());
        // What is attached to images, such as attestations, has this platform.
        let known = platforms.filter(|platform| platform.os != "unknown");
        let mut available: Vec<_> = known.map(Platform::to_string).collect();
        available.dedup();
        Err(ManifestError::NoPlatform { available })
    }
}

/// Whether the image is for the first level of the architecture.
fn is_baseline(entry: &Descriptor) -> bool {
    let variant = entry
        .platform
        .as_ref()
        .and_then(|platform| platform.variant.as_deref());
    matches!(variant, None | Some("" | "v1"))
}
