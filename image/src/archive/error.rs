//! Why an archive cannot be loaded or saved.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::layer::LayerError;
use crate::manifest::ManifestError;
use crate::reference::ReferenceError;
use crate::store::StoreError;

/// An archive cannot be loaded or saved.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It is something else.
    #[error("It is neither an OCI image layout nor an archive with images")]
    NotAnArchive,
    /// It is compressed, but not so that it could be read.
    #[error("It is compressed by {by}, which is not supported")]
    Compression {
        /// The program.
        by: &'static str,
    },
    /// The tar archive is damaged, or has what no archive of images has.
    #[error("The archive cannot be read: {reason}")]
    Tar {
        /// Why, as a clause.
        reason: &'static str,
    },
    /// It ends early, or its medium is damaged.
    #[error("The archive cannot be read")]
    Read {
        /// Why.
        source: io::Error,
    },
    /// It cannot be decompressed.
    #[error("The archive cannot be decompressed")]
    Decompress(#[from] LayerError),
    /// It has more bytes or files than is permitted.
    #[error("The archive has more than {limit} {what}")]
    TooLarge {
        /// Of what.
        what: &'static str,
        /// What is permitted.
        limit: u64,
    },
    /// It lacks a file that another one of its files names.
    #[error("{name:?} is missing in the archive")]
    Missing {
        /// Name of the file.
        name: String,
    },
    /// A file of it cannot be used.
    #[error("{name:?} in the archive cannot be used")]
    Document {
        /// Name of the file.
        name: String,
        /// Why.
        source: ManifestError,
    },
    /// A file of it has another size than is said elsewhere in it.
    #[error("The content of {digest} has {found} bytes in the archive, not {expected}")]
    Size {
        /// Of the content.
        digest: Digest,
        /// What its descriptor says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// A name in it is none.
    #[error("The archive names an image in a way that cannot be used")]
    Reference(#[from] ReferenceError),
    /// It has no image of this name.
    #[error("The archive has no image {tag:?}{}", among(available))]
    NoSuchTag {
        /// The name.
        tag: String,
        /// The names that there are.
        available: Vec<String>,
    },
    /// It has no image at all.
    #[error("The archive has no image in it")]
    NoImage,
    /// It has several, of which one is to be chosen.
    #[error("The archive has several images: {}", available.join(", "))]
    Several {
        /// The names that there are.
        available: Vec<String>,
    },
    /// The store cannot keep it, or lacks something.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A system call failed.
    #[error("Failed to {action} {path}")]
    Io {
        /// What was attempted, in the infinitive.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// Makes an error of a system call one of an archive.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ArchiveError {
    let path = path.to_owned();
    move |source| ArchiveError::Io {
        action,
        path,
        source,
    }
}

fn among(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let shown: Vec<_> = names.iter().take(SHOWN).map(String::as_str).collect();
    match names.len().saturating_sub(SHOWN) {
        _ if names.is_empty() => String::new(),
        0 => format!(", only {}", shown.join(", ")),
        more => format!(", only {} and {more} more", shown.join(", ")),
    }
}
