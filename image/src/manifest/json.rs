//! How values are read that the formats leave open, and bounds.

use serde::{Deserialize, Deserializer};

use super::{MAX_BLOB_BYTES, ManifestError};

/// Programs in Go write `null` for what is empty.
pub(super) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

pub(super) fn blob_size<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    let size = u64::deserialize(deserializer)?;
    if size > MAX_BLOB_BYTES {
        let error = format!("a size of {size} bytes is more than {MAX_BLOB_BYTES}");
        return Err(serde::de::Error::custom(error));
    }
    Ok(size)
}

/// Digests as text.
pub(super) mod digest {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::digest::Digest;

    pub(in crate::manifest) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Digest, D::Error> {
        let text = std::borrow::Cow::<str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }

    pub(in crate::manifest) fn serialize<S: Serializer>(
        digest: &Digest,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(digest)
    }
}

/// Digests as text, several.
pub(super) fn digests<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<crate::digest::Digest>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    let digests = texts.iter().map(|text| text.parse());
    digests
        .collect::<Result<_, _>>()
        .map_err(serde::de::Error::custom)
}

/// Whether it is a manifest of the format before version 2.
pub(super) fn is_schema1(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Version {
        #[serde(rename = "schemaVersion")]
        schema_version: u64,
    }
    serde_json::from_slice::<Version>(bytes).is_ok_and(|version| version.schema_version == 1)
}

pub(super) fn check_size(
    what: &'static str,
    bytes: &[u8],
    limit: usize,
) -> Result<(), ManifestError> {
    if bytes.len() <= limit {
        return Ok(());
    }
    Err(ManifestError::TooLarge {
        what,
        size: bytes.len() as u64,
        limit: limit as u64,
    })
}

pub(super) fn check_count(
    what: &'static str,
    count: usize,
    limit: usize,
) -> Result<(), ManifestError> {
    if count <= limit {
        return Ok(());
    }
    Err(ManifestError::TooMany { what, count, limit })
}
