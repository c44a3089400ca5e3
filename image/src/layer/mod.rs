//! Layers of images: tar archives, compressed or not, which become EROFS images.
//!
//! A layer is converted in one pass: decompressed by one thread, hashed, taken apart and written by another. Nothing of
//! it ever becomes a file of the host; the tree is one in memory, so that no name or link can lead anywhere.
#![deny(clippy::indexing_slicing)]

mod archive;
mod build;
mod error;
mod header;
mod limits;
mod path;
mod pax;
mod sparse;
mod stream;

use std::fs::File;
use std::io::Read;

pub use error::LayerError;
pub use limits::Limits;
pub use stream::Compression;

use crate::digest::Digest;
use crate::erofs::{self, BlockWriter};
use archive::Archive;
use build::Builder;

/// What a layer was and became.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Converted {
    /// Hash of the decompressed archive: what configurations of images name the layer by.
    pub diff_id: Digest,
    /// Bytes of the decompressed archive.
    pub tar_bytes: u64,
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of the image, holes included; a whole number of blocks.
    pub image_bytes: u64,
}

/// Writes a layer as an EROFS image to an empty file. The same archive always becomes the same image.
///
/// The image has whiteouts as character devices with number 0:0 and opaque directories with the attribute
/// `trusted.overlay.opaque`, for overlayfs; directories that no entry names have `trusted.msb.implied`. It is not synced,
/// and its bytes mean nothing if this fails. Whether `diff_id` is the one that was expected is for the caller to check.
///
/// # Errors
/// The blob cannot be read or decompressed; the archive is damaged, has too much of something, or an entry that no layer
/// may have; the image cannot be written.
pub fn convert(
    blob: impl Read + Send,
    compression: Compression,
    output: &File,
    limits: &Limits,
) -> Result<Converted, LayerError> {
    let (source, stream) = stream::stream(limits);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn_scoped(scope, move || source.fill(blob, compression))
            .map_err(LayerError::Thread)?;
        build(Archive::new(stream, limits), output, limits)
    })
}

/// Hands out in pieces what a file is when it is decompressed.
///
/// # Errors
/// The file cannot be read or decompressed, or is larger than a layer may be; what `take` returns.
pub(crate) fn decompress<E: From<LayerError>>(
    file: impl Read + Send,
    compression: Compression,
    limits: &Limits,
    mut take: impl FnMut(&[u8]) -> Result<(), E>,
) -> Result<(), E> {
    let (source, stream) = stream::stream(limits);
    std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("decompress".to_owned())
            .spawn_scoped(scope, move || source.fill(file, compression))
            .map_err(LayerError::Thread)?;
        // It is gone before the thread is waited for, which ends then.
        let mut stream = stream;
        loop {
            let piece = stream.available(u64::MAX)?;
            if piece.is_empty() {
                return Ok(());
            }
            take(piece)?;
            let count = piece.len();
            stream.consume(count);
        }
    })
}

fn build(
    mut archive: Archive<'_>,
    output: &File,
    limits: &Limits,
) -> Result<Converted, LayerError> {
    let mut builder = Builder::new(limits);
    let mut blocks = BlockWriter::new(output);
    while let Some(entry) = archive.next_entry()? {
        builder.add(&entry, &mut archive, &mut blocks)?;
    }
    let entries = builder.entries();
    let (diff_id, tar_bytes) = archive.into_stream().finish()?;
    let image_bytes = erofs::finish(&builder.tree, blocks, identity(&diff_id))?;
    Ok(Converted {
        diff_id,
        tar_bytes,
        entries,
        image_bytes,
    })
}

/// The identity of an image of which this is the hash. overlayfs tells its layers apart by them.
fn identity(digest: &Digest) -> [u8; 16] {
    let mut identity = [0; 16];
    identity.copy_from_slice(&digest.bytes()[..16]);
    identity
}
