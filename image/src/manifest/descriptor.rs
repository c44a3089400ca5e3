//! What refers to content (image specification, `descriptor.md`).

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::json;
use crate::digest::Digest;

/// Most bytes of one blob. Not more than what a disk has, but enough to add such sizes up.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of content it is.
    #[serde(default, deserialize_with = "json::null_as_default")]
    pub media_type: String,
    /// Its digest.
    #[serde(with = "json::digest")]
    pub digest: Digest,
    /// Its size in bytes, at most [`MAX_BLOB_BYTES`].
    #[serde(deserialize_with = "json::blob_size")]
    pub size: u64,
    /// The platform of an entry of an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// What else is said about it.
    #[serde(
        default,
        deserialize_with = "json::null_as_default",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    /// Of these bytes.
    pub fn of(bytes: &[u8], media_type: &str) -> Descriptor {
        Descriptor::new(Digest::of(bytes), bytes.len() as u64, media_type)
    }

    /// Of a blob.
    pub fn new(digest: Digest, size: u64, media_type: &str) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
pub struct Platform {
    /// Architecture, as Go names it.
    pub architecture: String,
    /// Operating system, as Go names it.
    pub os: String,
    /// Level of the architecture.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// Whether it is that of the guests.
    pub fn is_ours(&self) -> bool {
        self.os == "linux" && self.architecture == "amd64"
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match self.variant.as_deref() {
            Some(variant) if !variant.is_empty() => write!(formatter, "/{variant}"),
            _ => Ok(()),
        }
    }
}
