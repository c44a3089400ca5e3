//! Blobs of an archive on their way into the store.

use std::io::{self, Read};

use super::ArchiveError;
use super::section::Section;
use crate::digest::{Digest, Hasher};
use crate::manifest::{Descriptor, ImageConfig, Manifest};
use crate::parallel;
use crate::progress::Progress;
use crate::store::{BlobState, Shared};

/// Bytes that are copied at a time.
const BUFFER: usize = 1 << 20;

/// Adds a blob, unless it is there.
///
/// # Errors
/// When it is not what its descriptor says, or cannot be kept.
pub(super) fn add(
    store: &Shared,
    descriptor: &Descriptor,
    section: &Section,
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    if section.size() != descriptor.size {
        return Err(ArchiveError::Size {
            digest: descriptor.digest,
            expected: descriptor.size,
            found: section.size(),
        });
    }
    let BlobState::Write(mut writer) = store.whole_blob_writer(descriptor)? else {
        return Ok(());
    };
    each_piece(section, |piece| {
        writer.write(piece)?;
        progress.blob(&descriptor.digest, writer.offset(), descriptor.size);
        Ok(())
    })?;
    Ok(writer.commit()?)
}

/// The digest of what an archive does not name for its content.
///
/// # Errors
/// When the archive ends early.
pub(super) fn digest(section: &Section) -> Result<Digest, ArchiveError> {
    let mut hasher = Hasher::new();
    each_piece(section, |piece| {
        hasher.update(piece);
        Ok(())
    })?;
    Ok(hasher.finish())
}

fn each_piece(
    section: &Section,
    mut each: impl FnMut(&[u8]) -> Result<(), ArchiveError>,
) -> Result<(), ArchiveError> {
    let mut reader = section.reader();
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(count) => each(buffer.get(..count).unwrap_or_default())?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(ArchiveError::Read { source }),
        }
    }
}

/// Adds the layers of an image, each of which is in its section, and makes file systems of them.
///
/// # Errors
/// When one is not what its descriptor says, or no layer.
pub(super) fn add_layers(
    store: &Shared,
    manifest: &Manifest,
    config: &ImageConfig,
    sections: &[Section],
    progress: &dyn Progress,
) -> Result<(), ArchiveError> {
    let layers = manifest.layers.iter().zip(&config.diff_ids).zip(sections);
    let layers: Vec<_> = layers.collect();
    parallel::map(
        &layers,
        |((layer, diff_id), section)| -> Result<_, ArchiveError> {
            add(store, &layer.descriptor, section, progress)?;
            store.make_layer(layer, diff_id, progress)?;
            Ok(())
        },
    )?;
    Ok(())
}
