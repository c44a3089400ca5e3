//! Why something cannot be done with an image.

use std::io;
use std::path::{Path, PathBuf};

use distribution::{PullError, RegistryError};
use image::{ArchiveError, Digest, Reference, ReferenceError, StoreError};

use crate::database::DatabaseError;
use crate::private_directory::PrivateDirectoryError;
use crate::staged::StagedError;

/// Something cannot be done with an image.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// The name is none.
    #[error(transparent)]
    InvalidReference(#[from] ReferenceError),
    /// A tag is to be given to an image, and is not in the name.
    #[error("{reference:?} cannot be a further name of an image: it has a digest")]
    NotATag {
        /// The name.
        reference: String,
    },
    /// There is none of this name, or with this digest.
    #[error("No image {image:?} is here")]
    ImageNotFound {
        /// The name, or the digest.
        image: String,
    },
    /// Digests of several images begin so.
    #[error("The digests of several images begin with {prefix:?}")]
    Ambiguous {
        /// The beginning.
        prefix: String,
    },
    /// Sandboxes or snapshots were made of it.
    #[error("The image {image:?} is used by {}", list(sandboxes, snapshots))]
    ImageInUse {
        /// The name, or the digest.
        image: String,
        /// The names of the sandboxes.
        sandboxes: Vec<String>,
        /// The names of the snapshots.
        snapshots: Vec<String>,
    },
    /// It cannot be had from its registry.
    #[error("The image {reference} cannot be pulled", reference = reference.familiar_tagged())]
    PullFailed {
        /// Its name.
        reference: Reference,
        /// Why.
        source: Box<PullError>,
    },
    /// A text names no registry.
    #[error("{text:?} is no registry: a host is expected, with or without a port")]
    NotARegistry {
        /// The text, shortened.
        text: String,
    },
    /// A registry does not take credentials, or they cannot be kept.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The runtime was shut down meanwhile.
    #[error("The work on images was given up")]
    GivenUp,
    /// It is in the database, but not all of it is in the store.
    #[error("The image {digest} is damaged")]
    Damaged {
        /// Of its manifest.
        digest: Digest,
        /// What is wrong.
        source: Box<StoreError>,
    },
    /// Images cannot be loaded from an archive, or saved to one.
    #[error("{path} cannot be used")]
    Archive {
        /// The archive, as the user calls it.
        path: PathBuf,
        /// Why.
        source: Box<ArchiveError>,
    },
    /// The store cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The directory of the store cannot be used.
    #[error(transparent)]
    Directory(#[from] PrivateDirectoryError),
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] DatabaseError),
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

impl From<StagedError> for ImageError {
    fn from(error: StagedError) -> ImageError {
        failed(error.action, &error.path)(error.source)
    }
}

/// Makes an error of a system call one of images.
pub(super) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ImageError {
    let path = path.to_owned();
    move |source| ImageError::Io {
        action,
        path,
        source,
    }
}

fn list(sandboxes: &[String], snapshots: &[String]) -> String {
    let sandboxes = sandboxes.iter().cloned();
    let snapshots = snapshots.iter().map(|name| format!("the snapshot {name}"));
    sandboxes.chain(snapshots).collect::<Vec<_>>().join(", ")
}
