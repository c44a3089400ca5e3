//! Why something cannot be kept, or is not there.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::Digest;
use crate::erofs::ErofsError;
use crate::layer::LayerError;
use crate::manifest::ManifestError;

/// Something cannot be kept, or is not there.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The content is not what its digest says.
    #[error("The content of {expected} has the digest {found}")]
    WrongDigest {
        /// What was asked for.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// There is more of it, or less, than its descriptor says.
    #[error("The content of {digest} has {found} bytes, not {expected}")]
    WrongSize {
        /// Of the content.
        digest: Digest,
        /// What its descriptor says.
        expected: u64,
        /// What there is, or at least that much.
        found: u64,
    },
    /// Some of it has not come. What has, is kept, and can be completed.
    #[error("Of the content of {digest}, {found} of {expected} bytes came")]
    Incomplete {
        /// Of the content.
        digest: Digest,
        /// What its descriptor says.
        expected: u64,
        /// What there is.
        found: u64,
    },
    /// It is not there.
    #[error("The content of {digest} is missing in the store")]
    Missing {
        /// Of the content.
        digest: Digest,
    },
    /// A document in the store cannot be used.
    #[error("The document {digest} cannot be used")]
    Document {
        /// Of the document.
        digest: Digest,
        /// Why.
        source: ManifestError,
    },
    /// A blob is no layer that could be used.
    #[error("The layer {digest} cannot be used")]
    Layer {
        /// Of the blob.
        digest: Digest,
        /// Why.
        source: LayerError,
    },
    /// A layer is another one than the configuration of its image says.
    #[error("A layer is an archive with the digest {found}, not {expected}")]
    WrongLayer {
        /// What the configuration says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A layer that is made has more bytes than it may have.
    #[error("The layer has more than {limit} bytes")]
    TooLarge {
        /// What is permitted.
        limit: u64,
    },
    /// The file systems of layers cannot become one.
    #[error("The layers of the image cannot be merged")]
    Merge {
        /// Why.
        source: ErofsError,
    },
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

/// Makes an error of a system call one of the store.
pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StoreError {
    let path = path.to_owned();
    move |source| StoreError::Io {
        action,
        path,
        source,
    }
}
