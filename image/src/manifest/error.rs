//! Why a manifest, an index or a configuration cannot be used.

use crate::digest::Digest;

/// It cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It is not what it should be.
    #[error("The {what} of the image is no such JSON document")]
    Json {
        /// Which document.
        what: &'static str,
        /// Where and why.
        source: serde_json::Error,
    },
    /// It is larger than is permitted.
    #[error("The {what} of the image has {size} bytes, more than {limit}")]
    TooLarge {
        /// Which document.
        what: &'static str,
        /// Its size.
        size: u64,
        /// What is permitted.
        limit: u64,
    },
    /// It has more of something than is permitted.
    #[error("The image has {count} {what}, more than {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many.
        count: usize,
        /// What is permitted.
        limit: usize,
    },
    /// It is of the format that Docker replaced in 2015.
    #[error("The image's manifest is of schema version 1, which is not supported")]
    Schema1,
    /// It is of an unknown format.
    #[error("The image's manifest is of schema version {version}, which is unknown")]
    SchemaVersion {
        /// The version.
        version: u64,
    },
    /// It is sent as one thing and says that it is another.
    #[error("The image's manifest was sent as {sent_as}, but is {own}")]
    Contradiction {
        /// What it was sent as.
        sent_as: String,
        /// What it says.
        own: String,
    },
    /// It describes something else than an image.
    #[error("It is no image: it has content of type {media_type:?}")]
    NotAnImage {
        /// Of what type.
        media_type: String,
    },
    /// It has not the fields of one kind of document, or those of several.
    #[error("It is neither a manifest of an image, with a configuration and layers, nor an index")]
    Incomplete,
    /// An index, where a manifest is expected.
    #[error("It is an index of images, where the manifest of one was expected")]
    UnexpectedIndex,
    /// The layer has to be fetched from elsewhere.
    #[error("The layer {digest} is a foreign one, which is not distributed with the image")]
    ForeignLayer {
        /// Of the layer.
        digest: Digest,
    },
    /// The layer is of an unknown type.
    #[error("A layer is of type {media_type:?}, which is no layer of a Linux image")]
    LayerType {
        /// The type.
        media_type: String,
    },
    /// There is none for the guests.
    #[error("The image is not made for linux/amd64, only for {}", list(available))]
    NoPlatform {
        /// The platforms that there are.
        available: Vec<String>,
    },
    /// Layers and configuration do not fit.
    #[error("The image has {layers} layers, but its configuration lists {diff_ids}")]
    LayerCount {
        /// How many the manifest has.
        layers: usize,
        /// How many the configuration has.
        diff_ids: usize,
    },
    /// A value of the configuration cannot be used.
    #[error("The configuration of the image has a {field} that cannot be used: {reason}")]
    Config {
        /// Which.
        field: &'static str,
        /// Why, as a clause.
        reason: &'static str,
    },
}

impl ManifestError {
    pub(super) fn json(what: &'static str, source: serde_json::Error) -> ManifestError {
        ManifestError::Json { what, source }
    }
}

/// At most a few, so that an error stays a line.
fn list(platforms: &[String]) -> String {
    const SHOWN: usize = 12;
    if platforms.is_empty() {
        return "no platform".to_owned();
    }
    let shown: Vec<_> = platforms.iter().take(SHOWN).map(String::as_str).collect();
    let more = platforms.len().saturating_sub(SHOWN);
    match more {
        0 => shown.join(", "),
        _ => format!("{} and {more} more", shown.join(", ")),
    }
}
