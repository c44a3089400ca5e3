//! Why a layer cannot be converted.

use std::io;

use super::Compression;
use crate::erofs::ErofsError;

/// A layer cannot be converted.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    /// The layer's blob cannot be read.
    #[error("cannot read the layer")]
    Read(#[source] io::Error),
    /// It cannot be decompressed.
    #[error("the layer cannot be decompressed as {compression}")]
    Decompress {
        /// The compression that it was said to have.
        compression: Compression,
        /// As the decompressor reported it.
        #[source]
        source: io::Error,
    },
    /// It begins otherwise than everything with its compression does.
    #[error("the layer is said to be {declared}, but begins as if it were {found}")]
    Compression {
        /// The compression that it was said to have.
        declared: Compression,
        /// What it looks like.
        found: Compression,
    },
    /// The machine does not give another thread.
    #[error("cannot start a thread for decompression")]
    Thread(#[source] io::Error),
    /// The image cannot be written.
    #[error(transparent)]
    Erofs(#[from] ErofsError),
    /// The archive ends in the middle.
    #[error("the layer's archive ends too early, after {offset} bytes")]
    Truncated {
        /// Its bytes.
        offset: u64,
    },
    /// A header is none.
    #[error("the layer's archive is damaged at byte {offset}: {reason}")]
    Damaged {
        /// Where the header begins, in the decompressed archive.
        offset: u64,
        /// What is wrong with it, as a sentence without a full stop.
        reason: String,
    },
    /// An entry that would do something that no layer may do, or that cannot be done.
    #[error("the entry {path:?} of the layer {reason}")]
    Entry {
        /// The entry's name, shortened.
        path: String,
        /// What it does, as the rest of a sentence without a full stop.
        reason: String,
    },
    /// There is too much of something.
    #[error("the layer has {what} than the limit of {limit}")]
    Limit {
        /// What there is too much of, as in "more entries".
        what: &'static str,
        /// The limit, in entries or bytes.
        limit: u64,
    },
}

/// A name in a message: not too long, and readable.
pub(super) fn shown(name: &[u8]) -> String {
    let text = String::from_utf8_lossy(name);
    let mut shown: String = text.chars().take(200).collect();
    if shown.len() < text.len() {
        shown.push_str("...");
    }
    shown
}
