//! Archives of `docker save` (Docker, "Image Specification v1.2", "Combined Image JSON + Filesystem Changeset Format").

use std::io::Read;

use serde::{Deserialize, Serialize};

use super::container::Container;
use super::section::Section;
use super::{ArchiveError, LoadedImage, copy};
use crate::digest::Digest;
use crate::layer::Compression;
use crate::manifest::{
    DOCKER_CONFIG, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD, Descriptor, ImageConfig,
    Layer, MAX_CONFIG_BYTES, MAX_LAYERS, MAX_MANIFEST_BYTES, Manifest, ManifestError,
};
use crate::progress::Progress;
use crate::reference::Reference;
use crate::store::Shared;

/// The file that lists the images.
pub(super) const MANIFEST: &str = "manifest.json";
/// Most images of an archive.
const MAX_IMAGES: usize = 256;

/// An image in the list.
#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Listed {
    /// Name of the file with the configuration.
    pub(super) config: String,
    /// The names of the image.
    pub(super) repo_tags: Option<Vec<String>>,
    /// Names of the files with the layers, the lowest first.
    pub(super) layers: Option<Vec<String>>,
}

pub(super) fn load(
    store: &Shared,
    container: &Container,
    wanted: Option<&str>,
    progress: &dyn Progress,
) -> Result<Vec<LoadedImage>, ArchiveError> {
    let list = container
        .get(MANIFEST)?
        .read("bytes in its list of images", MAX_MANIFEST_BYTES)?;
    let mut list: Vec<Listed> = serde_json::from_slice(&list).map_err(|source| {
        unusable(MANIFEST)(ManifestError::Json {
            what: "manifest",
            source,
        })
    })?;
    if let Some(wanted) = wanted {
        let names = names(&list);
        list.retain(|image| image.names().any(|name| is_same(name, wanted)));
        if list.is_empty() {
            return Err(ArchiveError::NoSuchTag {
                tag: wanted.to_owned(),
                available: names,
            });
        }
    }
    if list.is_empty() {
        return Err(ArchiveError::NoImage);
    }
    if list.len() > MAX_IMAGES {
        return Err(ArchiveError::TooLarge {
            what: "images",
            limit: MAX_IMAGES as u64,
        });
    }
    let images = list
        .iter()
        .map(|image| add(store, container, image, progress));
    images.collect()
}

impl Listed {
    fn names(&self) -> impl Iterator<Item = &String> {
        self.repo_tags.iter().flatten()
    }
}

fn names(list: &[Listed]) -> Vec<String> {
    list.iter().flat_map(Listed::names).cloned().collect()
}

/// Whether both are names of the same image.
fn is_same(name: &str, wanted: &str) -> bool {
    let parse = |text: &str| text.parse::<Reference>().ok();
    match (parse(name), parse(wanted)) {
        (Some(name), Some(same)) if name == same => true,
        (Some(name), _) => name.tag() == Some(wanted),
        (None, _) => false,
    }
}

/// Adds an image. A manifest is made for it, the same one whenever it is loaded.
fn add(
    store: &Shared,
    container: &Container,
    listed: &Listed,
    progress: &dyn Progress,
) -> Result<LoadedImage, ArchiveError> {
    let content = container
        .get(&listed.config)?
        .read("bytes in a configuration", MAX_CONFIG_BYTES)?;
    let config = ImageConfig::read(&content).map_err(unusable(&listed.config))?;
    let files = listed.layers.as_deref().unwrap_or_default();
    if files.len() != config.diff_ids.len() || files.len() > MAX_LAYERS {
        return Err(unusable(MANIFEST)(ManifestError::LayerCount {
            layers: files.len(),
            diff_ids: config.diff_ids.len(),
        }));
    }
    let mut layers = Vec::new();
    let mut sections = Vec::new();
    for (file, diff_id) in files.iter().zip(&config.diff_ids) {
        let section = container.get(file)?;
        layers.push(layer(&section, diff_id)?);
        sections.push(section);
    }
    let manifest = Manifest {
        config: store.add(&content, DOCKER_CONFIG)?,
        layers,
    };
    copy::add_layers(store, &manifest, &config, &sections, progress)?;
    let added = store.add(&manifest.write(), manifest.media_type())?;
    let references = listed.names().map(|name| name.parse::<Reference>());
    Ok(LoadedImage {
        manifest: added.digest,
        references: references.collect::<Result<_, _>>()?,
    })
}

/// What a file has in it: mostly a tar archive, which the configuration has the digest of.
fn layer(section: &Section, diff_id: &Digest) -> Result<Layer, ArchiveError> {
    let mut beginning = Vec::with_capacity(4);
    let read = section.reader().take(4).read_to_end(&mut beginning);
    read.map_err(|source| ArchiveError::Read { source })?;
    let compression = Compression::of(&beginning);
    let (media_type, digest) = match compression {
        Compression::None => (DOCKER_LAYER, *diff_id),
        Compression::Gzip => (DOCKER_LAYER_GZIP, copy::digest(section)?),
        Compression::Zstd => (DOCKER_LAYER_ZSTD, copy::digest(section)?),
    };
    Ok(Layer {
        descriptor: Descriptor::new(digest, section.size(), media_type),
        compression,
    })
}

fn unusable(name: &str) -> impl FnOnce(ManifestError) -> ArchiveError + use<> {
    let name = name.to_owned();
    move |source| ArchiveError::Document { name, source }
}
