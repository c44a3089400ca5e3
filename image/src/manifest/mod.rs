//! What an image consists of: manifests and indices (image specification, `manifest.md` and `image-index.md`; Docker's
//! "Image Manifest Version 2, Schema 2"), and its configuration.
//!
//! Anybody may have written them. Sizes and counts are bounded before anything is believed.

mod config;
mod derive;
mod descriptor;
mod error;
mod index;
mod json;
mod media_type;
#[cfg(test)]
mod tests;

pub use config::{ContainerConfig, Healthcheck, History, ImageConfig, MAX_CONFIG_BYTES};
pub use derive::Step;
pub use descriptor::{Descriptor, MAX_BLOB_BYTES, Platform};
pub use error::ManifestError;
pub use index::{Index, MAX_INDEX_ENTRIES};
pub use media_type::{
    DOCKER_CONFIG, DOCKER_INDEX, DOCKER_LAYER, DOCKER_LAYER_GZIP, DOCKER_LAYER_ZSTD,
    DOCKER_MANIFEST, OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD,
    OCI_MANIFEST,
};

use serde::{Deserialize, Serialize};

use crate::layer::Compression;

/// Most bytes of a manifest or an index: what registries accept.
pub const MAX_MANIFEST_BYTES: usize = 4 << 20;
/// Most layers of an image; Docker makes at most 127.
pub const MAX_LAYERS: usize = 128;

/// An image of one platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Of the configuration.
    pub config: Descriptor,
    /// The layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// A layer as it is distributed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Of the blob.
    pub descriptor: Descriptor,
    /// How the tar archive in it is compressed.
    pub compression: Compression,
}

/// What a reference leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Document {
    /// An image.
    Manifest(Manifest),
    /// Images of several platforms.
    Index(Index),
}

/// The fields by which the kinds of documents differ, and those of a manifest.
#[derive(Deserialize)]
struct Fields {
    #[serde(rename = "schemaVersion")]
    schema_version: u64,
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
}

impl Document {
    /// Reads a document. `media_type` is what whoever sent it called it, where that is known; it must agree with
    /// what the document says of itself.
    ///
    /// # Errors
    /// When it is something else, or has more of anything than is permitted.
    pub fn parse(bytes: &[u8], media_type: Option<&str>) -> Result<Document, ManifestError> {
        json::check_size("manifest", bytes, MAX_MANIFEST_BYTES)?;
        if media_type.is_some_and(media_type::is_schema1) {
            return Err(ManifestError::Schema1);
        }
        let fields: Fields = match serde_json::from_slice(bytes) {
            Ok(fields) => fields,
            // Its other fields differ, so much that it may not be readable as this.
            Err(_) if json::is_schema1(bytes) => return Err(ManifestError::Schema1),
            Err(source) => return Err(ManifestError::json("manifest", source)),
        };
        if fields.schema_version == 1
            || fields
                .media_type
                .as_deref()
                .is_some_and(media_type::is_schema1)
        {
            return Err(ManifestError::Schema1);
        }
        if fields.schema_version != 2 {
            return Err(ManifestError::SchemaVersion {
                version: fields.schema_version,
            });
        }
        Document::of_kind(fields, media_type)
    }

    fn of_kind(fields: Fields, sent_as: Option<&str>) -> Result<Document, ManifestError> {
        // Registries that know nothing better send JSON as such; old documents of OCI have no type.
        let sent_as = sent_as
            .filter(|sent_as| media_type::is_manifest(sent_as) || media_type::is_index(sent_as));
        let own = fields.media_type.as_deref();
        if let (Some(sent_as), Some(own)) = (sent_as, own)
            && media_type::is_index(sent_as) != media_type::is_index(own)
        {
            return Err(ManifestError::Contradiction {
                sent_as: sent_as.to_owned(),
                own: own.to_owned(),
            });
        }
        if let Some(own) = own
            && !media_type::is_manifest(own)
            && !media_type::is_index(own)
        {
            return Err(ManifestError::NotAnImage {
                media_type: own.to_owned(),
            });
        }
        let kind = own.or(sent_as);
        // A document that is both would be another thing to each of its readers.
        match (fields.config, fields.layers, fields.manifests) {
            (Some(config), Some(layers), None) if !kind.is_some_and(media_type::is_index) => {
                Manifest::new(config, layers).map(Document::Manifest)
            }
            (None, None, Some(manifests)) if !kind.is_some_and(media_type::is_manifest) => {
                Index::new(manifests).map(Document::Index)
            }
            _ => Err(ManifestError::Incomplete),
        }
    }
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// As [`Document::parse`]; when it is an index.
    pub fn parse(bytes: &[u8]) -> Result<Manifest, ManifestError> {
        match Document::parse(bytes, None)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => Err(ManifestError::UnexpectedIndex),
        }
    }

    fn new(config: Descriptor, layers: Vec<Descriptor>) -> Result<Manifest, ManifestError> {
        if !media_type::is_config(&config.media_type) {
            return Err(ManifestError::NotAnImage {
                media_type: config.media_type,
            });
        }
        if config.size > MAX_CONFIG_BYTES as u64 {
            return Err(ManifestError::TooLarge {
                what: "configuration",
                size: config.size,
                limit: MAX_CONFIG_BYTES as u64,
            });
        }
        json::check_count("layers", layers.len(), MAX_LAYERS)?;
        let layers = layers.into_iter().map(Layer::new);
        Ok(Manifest {
            config,
            layers: layers.collect::<Result<_, _>>()?,
        })
    }

    /// Bytes of everything that is distributed, except the manifest.
    pub fn total_bytes(&self) -> u64 {
        let layers = self.layers.iter().map(|layer| layer.descriptor.size);
        layers.fold(self.config.size, u64::saturating_add)
    }

    /// Whether the image is one in Docker's format, as its configuration says.
    fn is_docker(&self) -> bool {
        self.config.media_type == DOCKER_CONFIG
    }

    /// The type of this manifest when it is written.
    pub fn media_type(&self) -> &'static str {
        match self.is_docker() {
            true => DOCKER_MANIFEST,
            false => OCI_MANIFEST,
        }
    }

    /// The type that a further layer has, compressed by gzip: of all programs that handle images some know no other
    /// compression.
    pub fn gzip_layer_type(&self) -> &'static str {
        match self.is_docker() {
            true => DOCKER_LAYER_GZIP,
            false => OCI_LAYER_GZIP,
        }
    }

    /// The document, of an image that came without one, as in an archive of `docker save`, or that is made here.
    pub fn write(&self) -> Vec<u8> {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Document<'a> {
            schema_version: u8,
            media_type: &'static str,
            config: &'a Descriptor,
            layers: Vec<&'a Descriptor>,
        }
        let document = Document {
            schema_version: 2,
            media_type: self.media_type(),
            config: &self.config,
            layers: self.layers.iter().map(|layer| &layer.descriptor).collect(),
        };
        // Serialising strings and numbers to memory cannot fail.
        serde_json::to_vec(&document).unwrap_or_default()
    }
}

impl Layer {
    /// # Errors
    /// When it is not distributed with the image, or is no tar archive as images have them.
    fn new(descriptor: Descriptor) -> Result<Layer, ManifestError> {
        let media_type = &descriptor.media_type;
        if media_type::is_foreign(media_type) {
            return Err(ManifestError::ForeignLayer {
                digest: descriptor.digest,
            });
        }
        let Some(compression) = media_type::layer_compression(media_type) else {
            return Err(ManifestError::LayerType {
                media_type: descriptor.media_type,
            });
        };
        Ok(Layer {
            descriptor,
            compression,
        })
    }
}
