//! OCI image layouts (image specification, `image-layout.md`).

use std::str;

use super::container::{Container, blob_name};
use super::{ArchiveError, LoadedImage, copy};
use crate::digest::Digest;
use crate::manifest::{
    Descriptor, Document, ImageConfig, Index, MAX_CONFIG_BYTES, MAX_MANIFEST_BYTES, Manifest,
    ManifestError, Platform,
};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Shared;

/// The file that says that it is a layout.
pub(super) const MARKER: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
/// Name of an image in a layout: a tag, or a complete one.
pub(super) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Complete name of an image, as containerd and Docker write it.
pub(super) const CONTAINERD_NAME: &str = "io.containerd.image.name";

/// Most indices that lead to an image, one in another.
const MAX_DEPTH: usize = 4;
/// Most images of a layout.
const MAX_IMAGES: usize = 256;

/// An image of a layout, for the platform of the guests.
struct Found {
    digest: Digest,
    content: Vec<u8>,
    media_type: String,
    manifest: Manifest,
    config: ImageConfig,
    references: Vec<Reference>,
}

pub(super) fn load(
    store: &Shared,
    container: &Container,
    wanted: Option<&str>,
    progress: &dyn Progress,
) -> Result<Vec<LoadedImage>, ArchiveError> {
    let index = container
        .get(INDEX)?
        .read("bytes in its index", MAX_MANIFEST_BYTES)?;
    let document = Document::parse(&index, None).map_err(unusable(INDEX))?;
    let Document::Index(index) = document else {
        return Err(unusable(INDEX)(ManifestError::Incomplete));
    };
    let mut loaded = Vec::new();
    for found in find(container, &index, wanted)? {
        loaded.push(add(store, container, found, progress)?);
    }
    Ok(loaded)
}

/// The images that are wanted. One for another platform is passed over if there are others.
fn find(
    container: &Container,
    index: &Index,
    wanted: Option<&str>,
) -> Result<Vec<Found>, ArchiveError> {
    let entries: Vec<_> = index
        .manifests
        .iter()
        .filter(|entry| wanted.is_none_or(|wanted| is_called(entry, wanted)))
        .collect();
    if let (Some(wanted), true) = (wanted, entries.is_empty()) {
        let names = index.manifests.iter().filter_map(name);
        return Err(ArchiveError::NoSuchTag {
            tag: wanted.to_owned(),
            available: names.map(str::to_owned).collect(),
        });
    }
    if entries.len() > MAX_IMAGES {
        return Err(ArchiveError::TooLarge {
            what: "images",
            limit: MAX_IMAGES as u64,
        });
    }
    let mut found: Vec<Found> = Vec::new();
    let mut other_platforms = Vec::new();
    for entry in entries {
        match examine(container, entry) {
            // Several names of one image.
            Ok(image) => match found.iter_mut().find(|known| known.digest == image.digest) {
                Some(known) => known.references.extend(image.references),
                None => found.push(image),
            },
            Err(ArchiveError::Document {
                source: ManifestError::NoPlatform { available },
                ..
            }) => other_platforms.extend(available),
            Err(error) => return Err(error),
        }
    }
    match (found.is_empty(), other_platforms.is_empty()) {
        (false, _) => Ok(found),
        (true, true) => Err(ArchiveError::NoImage),
        (true, false) => Err(unusable(INDEX)(ManifestError::NoPlatform {
            available: other_platforms,
        })),
    }
}

/// Follows an entry of the index to an image.
fn examine(container: &Container, entry: &Descriptor) -> Result<Found, ArchiveError> {
    let mut descriptor = entry.clone();
    for _ in 0..MAX_DEPTH {
        let name = blob_name(&descriptor.digest);
        if let Some(platform) = descriptor
            .platform
            .as_ref()
            .filter(|platform| !platform.is_ours())
        {
            return Err(unusable(&name)(other_platform(platform)));
        }
        let content = read(container, &descriptor, MAX_MANIFEST_BYTES)?;
        let document = Document::parse(&content, Some(&descriptor.media_type));
        match document.map_err(unusable(&name))? {
            Document::Index(index) => {
                descriptor = index.choose().map_err(unusable(&name))?.clone();
            }
            Document::Manifest(manifest) => {
                let config_name = blob_name(&manifest.config.digest);
                let config = read(container, &manifest.config, MAX_CONFIG_BYTES)?;
                let config = ImageConfig::parse(&config, &manifest);
                return Ok(Found {
                    digest: descriptor.digest,
                    content,
                    media_type: descriptor.media_type,
                    manifest,
                    config: config.map_err(unusable(&config_name))?,
                    references: reference(entry)?.into_iter().collect(),
                });
            }
        }
    }
    Err(ArchiveError::TooLarge {
        what: "indices, one in another",
        limit: MAX_DEPTH as u64,
    })
}

/// A small blob, checked against its descriptor.
fn read(
    container: &Container,
    descriptor: &Descriptor,
    limit: usize,
) -> Result<Vec<u8>, ArchiveError> {
    let content = container
        .get(&blob_name(&descriptor.digest))?
        .read("bytes in a document", limit)?;
    if content.len() as u64 != descriptor.size {
        return Err(ArchiveError::Size {
            digest: descriptor.digest,
            expected: descriptor.size,
            found: content.len() as u64,
        });
    }
    let found = Digest::of(&content);
    if found != descriptor.digest {
        return Err(crate::store::StoreError::WrongDigest {
            expected: descriptor.digest,
            found,
        }
        .into());
    }
    Ok(content)
}

/// Adds an image to the store: the manifest last, when all that it names is there.
fn add(
    store: &Shared,
    container: &Container,
    found: Found,
    progress: &dyn Progress,
) -> Result<LoadedImage, ArchiveError> {
    let config = &found.manifest.config;
    copy::add(
        store,
        config,
        &container.get(&blob_name(&config.digest))?,
        progress,
    )?;
    let mut sections = Vec::new();
    for layer in &found.manifest.layers {
        sections.push(container.get(&blob_name(&layer.descriptor.digest))?);
    }
    copy::add_layers(store, &found.manifest, &found.config, &sections, progress)?;
    store.add(&found.content, &found.media_type)?;
    Ok(LoadedImage {
        manifest: found.digest,
        references: found.references,
    })
}

fn name(entry: &Descriptor) -> Option<&str> {
    let annotation = |key| entry.annotations.get(key).map(String::as_str);
    annotation(CONTAINERD_NAME).or_else(|| annotation(REF_NAME))
}

/// The complete name of an entry, if it has one; a tag alone is none.
fn reference(entry: &Descriptor) -> Result<Option<Reference>, ArchiveError> {
    let is_complete = |name: &&str| name.contains(['/', ':', '@']);
    let complete = name(entry).filter(is_complete);
    Ok(complete.map(str::parse).transpose()?)
}

/// Whether an entry has this tag, or this name.
fn is_called(entry: &Descriptor, wanted: &str) -> bool {
    let same = |name: &String| {
        let reference: Option<Reference> = name.parse().ok();
        name == wanted
            || reference.is_some_and(|reference| {
                wanted
                    .parse()
                    .is_ok_and(|wanted: Reference| wanted == reference)
                    || name.contains(['/', ':']) && reference.tag() == Some(wanted)
            })
    };
    [CONTAINERD_NAME, REF_NAME]
        .iter()
        .filter_map(|key| entry.annotations.get(*key))
        .any(same)
}

fn other_platform(platform: &Platform) -> ManifestError {
    ManifestError::NoPlatform {
        available: vec![platform.to_string()],
    }
}

fn unusable(name: &str) -> impl FnOnce(ManifestError) -> ArchiveError + use<> {
    let name = name.to_owned();
    move |source| ArchiveError::Document { name, source }
}
