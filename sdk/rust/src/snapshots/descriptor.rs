//! What a snapshot says of itself: `snapshot.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use image::Digest;
use serde::{Deserialize, Serialize};

use super::{SnapshotError, SnapshotName};
use crate::identity::Id;
use crate::names::Name;
use crate::sandbox::{DiskCache, SandboxConfig, image_name};

/// The format that this program makes.
pub(super) const FORMAT: u32 = 1;

/// Most bytes of a descriptor.
pub(super) const MAX_BYTES: u64 = 1 << 20;

/// Sizes of layers, in bytes: what mke2fs(8) makes a journal in, and what one file of ext4 can have.
const SIZES: std::ops::RangeInclusive<u64> = 8 << 20..=16 << 40;

const MIB: u64 = 1 << 20;

/// The only type of file system that layers have.
const FSTYPE: &str = "ext4";

/// A snapshot, without its data. Whoever reads one checks it: anybody may have written it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Descriptor {
    pub(super) format: u32,
    pub(super) id: String,
    /// None for one at a path.
    pub(super) name: Option<String>,
    /// Milliseconds since 1970-01-01 00:00 UTC.
    pub(super) created_at: u64,
    /// The sandbox that it was made of.
    pub(super) sandbox: String,
    #[serde(default)]
    pub(super) labels: BTreeMap<String, String>,
    pub(super) root: SnapshotRoot,
    pub(super) upper: Upper,
}

/// The layer of changes, `upper.img`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Upper {
    pub(super) size_bytes: u64,
    pub(super) fstype: String,
    pub(super) digest: String,
}

/// What the layer of a snapshot lies on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum SnapshotRoot {
    /// An image.
    Image {
        /// Its name when the sandbox was made.
        reference: String,
        /// Digest of its manifest.
        manifest_digest: String,
    },
    /// A folder or a disk image of this machine.
    Path {
        /// Where it is.
        path: PathBuf,
        /// Format of a disk image whose name does not tell it.
        format: Option<String>,
        /// File system on a disk image.
        fstype: Option<String>,
        /// Partition of a disk image.
        partition: Option<u32>,
        /// When a write to a disk image is durable.
        cache: DiskCache,
        /// What a disk image may refer to outside its folder.
        allow: Vec<PathBuf>,
    },
}

impl SnapshotRoot {
    /// That of a sandbox.
    pub(super) fn of(config: &SandboxConfig) -> SnapshotRoot {
        let image = image_name(&config.image).zip(config.image_digest.as_ref());
        match image {
            Some((reference, digest)) => SnapshotRoot::Image {
                reference: reference.to_owned(),
                manifest_digest: digest.clone(),
            },
            None => SnapshotRoot::Path {
                path: config.image.clone(),
                format: config.image_format.clone(),
                fstype: config.image_fstype.clone(),
                partition: config.image_partition,
                cache: config.image_cache,
                allow: config.allow.clone(),
            },
        }
    }

    /// Gives it to a sandbox that is to be made.
    pub(crate) fn give(self, config: &mut SandboxConfig) {
        match self {
            SnapshotRoot::Image {
                reference,
                manifest_digest,
            } => {
                config.image = reference.into();
                config.image_digest = Some(manifest_digest);
            }
            SnapshotRoot::Path {
                path,
                format,
                fstype,
                partition,
                cache,
                allow,
            } => {
                config.image = path;
                config.image_format = format;
                config.image_fstype = fstype;
                config.image_partition = partition;
                config.image_cache = cache;
                config.allow.extend(allow);
            }
        }
    }

    /// As people call it.
    pub fn display_name(&self) -> String {
        match self {
            SnapshotRoot::Image { reference, .. } => reference.clone(),
            SnapshotRoot::Path { path, .. } => path.display().to_string(),
        }
    }
}

/// A descriptor that was checked, with its parts as what they are.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) descriptor: Descriptor,
    pub(super) id: Id,
    pub(super) name: Option<SnapshotName>,
    /// Name and digest of the image that it is based on.
    pub(super) image: Option<(String, Digest)>,
    pub(super) digest: Digest,
}

impl Snapshot {
    /// Reads what is said to be a descriptor; `path` is where it is, for errors.
    ///
    /// # Errors
    /// [`SnapshotError::Invalid`], [`SnapshotError::Newer`].
    pub(super) fn parse(text: &[u8], path: &Path) -> Result<Snapshot, SnapshotError> {
        #[derive(Deserialize)]
        struct Formatted {
            format: u32,
        }
        let invalid = |reason: String| SnapshotError::Invalid {
            path: path.to_owned(),
            reason,
        };
        let read = |error: serde_json::Error| invalid(error.to_string());
        let Formatted { format } = serde_json::from_slice(text).map_err(read)?;
        if format > FORMAT {
            return Err(SnapshotError::Newer {
                path: path.to_owned(),
                found: format,
                known: FORMAT,
            });
        }
        Snapshot::check(serde_json::from_slice(text).map_err(read)?).map_err(invalid)
    }

    /// Checks each part, or tells what is wrong.
    pub(super) fn check(descriptor: Descriptor) -> Result<Snapshot, String> {
        let upper = &descriptor.upper;
        if descriptor.format != FORMAT {
            return Err(format!("there is no format {}", descriptor.format));
        }
        if !SIZES.contains(&upper.size_bytes) || !upper.size_bytes.is_multiple_of(MIB) {
            return Err(format!("a layer cannot have {} bytes", upper.size_bytes));
        }
        if upper.fstype != FSTYPE {
            return Err(format!("{:?} is no file system of a layer", upper.fstype));
        }
        let text = |error: &dyn std::fmt::Display| error.to_string();
        descriptor
            .sandbox
            .parse::<Name>()
            .map_err(|error| text(&error))?;
        let name = descriptor.name.as_deref().map(str::parse).transpose();
        let image = match &descriptor.root {
            SnapshotRoot::Image {
                reference,
                manifest_digest,
            } => {
                if image_name(reference.as_ref()).is_none() {
                    return Err(format!("{reference:?} is no name of an image"));
                }
                let digest = manifest_digest.parse().map_err(|error| text(&error))?;
                Some((reference.clone(), digest))
            }
            SnapshotRoot::Path { path, .. } => {
                if !path.is_absolute() {
                    return Err(format!("the path {} is not absolute", path.display()));
                }
                None
            }
        };
        Ok(Snapshot {
            id: Id::parse(&descriptor.id).ok_or("its identity is none")?,
            name: name.map_err(|error| text(&error))?,
            image,
            digest: upper.digest.parse().map_err(|error| text(&error))?,
            descriptor,
        })
    }

    /// The descriptor as text.
    pub(super) fn to_json(&self) -> String {
        // It consists of text and numbers, which JSON has.
        serde_json::to_string_pretty(&self.descriptor).unwrap_or_default()
    }

    /// Size of its layer in MiB.
    pub(super) fn size_mib(&self) -> u32 {
        u32::try_from(self.descriptor.upper.size_bytes / MIB).unwrap_or(u32::MAX)
    }

    pub(super) fn created_at(&self) -> SystemTime {
        let since_1970 = Duration::from_millis(self.descriptor.created_at);
        UNIX_EPOCH.checked_add(since_1970).unwrap_or(UNIX_EPOCH)
    }
}

/// Of a layer of this size and with this digest.
pub(super) fn upper(size_bytes: u64, digest: &Digest) -> Upper {
    Upper {
        size_bytes,
        fstype: FSTYPE.to_owned(),
        digest: digest.to_string(),
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since_1970.unwrap_or_default().as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::snapshots) fn sample() -> Descriptor {
        Descriptor {
            format: FORMAT,
            id: "0123456789abcdef".to_owned(),
            name: Some("base".to_owned()),
            created_at: 1_700_000_000_000,
            sandbox: "web".to_owned(),
            labels: BTreeMap::new(),
            root: SnapshotRoot::Image {
                reference: "debian".to_owned(),
                manifest_digest: Digest::of(b"manifest").to_string(),
            },
            upper: upper(8 << 20, &Digest::of(b"")),
        }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let snapshot = Snapshot::check(sample()).unwrap();
        let read = Snapshot::parse(snapshot.to_json().as_bytes(), Path::new("x")).unwrap();
        assert_eq!(read.descriptor, snapshot.descriptor);
        assert_eq!(read.size_mib(), 8);
    }

    #[test]
    fn what_cannot_be_is_refused() {
        type Change = fn(&mut Descriptor);
        let changes: [Change; 12] = [
            |snapshot| snapshot.format = 0,
            |snapshot| snapshot.id = "../../../../etc".to_owned(),
            |snapshot| snapshot.name = Some("../x".to_owned()),
            |snapshot| snapshot.name = Some(String::new()),
            |snapshot| snapshot.sandbox = "a/b".to_owned(),
            |snapshot| snapshot.upper.size_bytes = 0,
            |snapshot| snapshot.upper.size_bytes = (8 << 20) + 1,
            |snapshot| snapshot.upper.size_bytes = !(MIB - 1),
            |snapshot| snapshot.upper.fstype = "fuse".to_owned(),
            |snapshot| snapshot.upper.digest = "sha256:0".to_owned(),
            |snapshot| {
                snapshot.root = SnapshotRoot::Image {
                    reference: "/etc".to_owned(),
                    manifest_digest: Digest::of(b"").to_string(),
                };
            },
            |snapshot| {
                snapshot.root = SnapshotRoot::Image {
                    reference: "debian".to_owned(),
                    manifest_digest: "latest".to_owned(),
                };
            },
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut descriptor = sample();
            change(&mut descriptor);
            assert!(Snapshot::check(descriptor).is_err(), "change {number}");
        }
    }

    #[test]
    fn a_later_format_is_told_whatever_else_it_has() {
        let text = br#"{"format": 2, "disks": []}"#;
        let error = Snapshot::parse(text, Path::new("x")).unwrap_err();
        assert!(matches!(error, SnapshotError::Newer { found: 2, .. }));
    }
}
