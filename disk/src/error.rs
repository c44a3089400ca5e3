//! Why an image cannot be opened.

use std::io;
use std::path::PathBuf;

use crate::Format;

/// An image cannot be opened, made or examined.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// A file cannot be opened.
    #[error("cannot open the disk image {}", path.display())]
    Open {
        /// The image, or a file that it consists of.
        path: PathBuf,
        /// As open(2) reported it.
        #[source]
        source: io::Error,
    },
    /// Somebody else has it open in a way that excludes this one.
    #[error("the disk image {} is in use", path.display())]
    InUse {
        /// The image, or a file that it consists of.
        path: PathBuf,
    },
    /// It is not what its format demands.
    #[error("{} is no usable {format} image: {reason}", path.display())]
    Invalid {
        /// The image, or a file that it consists of.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What is wrong with it, as a sentence without a full stop.
        reason: String,
    },
    /// It is in order, but needs something that is not provided.
    #[error("the {format} image {} cannot be used: {reason}", path.display())]
    Unsupported {
        /// The image, or a file that it consists of.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// What it needs, as a sentence without a full stop.
        reason: String,
    },
    /// It names another file that the caller did not allow.
    #[error("the disk image {} refers to {}, which was not allowed", path.display(), other.display())]
    NotAllowed {
        /// The image.
        path: PathBuf,
        /// What it refers to.
        other: PathBuf,
    },
    /// Reading or writing failed.
    #[error("cannot {what} the disk image {}", path.display())]
    Io {
        /// What was being done: `read`, `write`, ...
        what: &'static str,
        /// The image, or a file that it consists of.
        path: PathBuf,
        /// As the host reported it.
        #[source]
        source: io::Error,
    },
}
